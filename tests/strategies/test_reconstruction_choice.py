"""Codes that keep the outputs, and stay nearer to the weights than zeros are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax_strategies.reconstruction import choice as module
from lloydmax_strategies.reconstruction import feedback as feedback_module
from lloydmax_strategies.reconstruction.cheapest import Distances, Limits
from lloydmax_strategies.reconstruction.choice import _chosen, choice, errors
from lloydmax_strategies.reconstruction.feedback import feedback


def test_where_codes_end_up_farther_from_the_weights_than_zeros_the_damping_grows() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 32, generator=generator)
    signs = replace(lloydmax.fit_codebook(weight, 2), centroids=torch.tensor([-1.5, 1.5]))
    held = replace(signs, codes=(weight > 0).to(signs.codes.dtype))
    common = torch.randn(200, 1, generator=generator) @ torch.randn(1, 32, generator=generator)
    inputs = (common + 0.3 * torch.randn(200, 32, generator=generator)).double()
    moments, idle = (inputs.T @ inputs / 200)[None], torch.zeros(1, dtype=torch.bool)
    given = weight[None], weight, held, moments, 0.01, False, idle
    bold, found = _chosen(*given), choice(*given)
    power = weight.square().sum()
    assert (bold.dequantize() - weight).square().sum() > power > (found.dequantize() - weight).square().sum()
    before, after = (float(errors(weight[None], book, moments).sum()) for book in (held, found))
    assert after < before / 3


@pytest.mark.parametrize("free", [True, False])
def test_some_rows_tell_the_price_of_all(free: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 32, generator=generator)
    held = lloydmax.fit_codebook(weight, 16, price=0.02)
    inputs = (torch.randn(200, 32, generator=generator) @ torch.randn(32, 32, generator=generator)).double()
    moments, idle = (inputs.T @ inputs / 200)[None], torch.zeros(1, dtype=torch.bool)
    given = weight[None], weight, held, moments, 0.01, free, idle
    rows: list[int] = []

    def counted(some: torch.Tensor, *others: Any) -> torch.Tensor:
        rows.append(some.shape[1])
        return feedback(some, *others)

    monkeypatch.setattr(module, "feedback", counted)
    whole, passes = choice(*given), rows.count(64)
    rows.clear()
    monkeypatch.setattr(module, "_FEW", weight.numel() // 4)
    found = choice(*given)
    assert set(rows) == {16, 64} and rows.count(64) <= passes and found.entropy <= held.entropy
    before, every, some = (float(errors(weight[None], book, moments).sum()) for book in (held, whole, found))
    assert every < before / 2 and some < 1.05 * every


@pytest.mark.parametrize("priced", [False, True])
def test_limits_tell_what_distances_do(priced: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    table, values = torch.randn(20, generator=generator), torch.randn(2, 500, generator=generator)
    table[3] = table[4]
    bits, price = torch.rand(20, generator=generator) * 8, torch.tensor([[0.0, 0.01, 3.0], [0.002, 0.1, 1.0]])
    given = (bits, price) if priced else ()
    limits, distances = Limits(table, *given), Distances(table, *given)
    for column in range(3):
        found, wanted = limits.made(values, column), distances.made(values, column)
        assert torch.equal(limits.decoded(found), distances.decoded(wanted))
    assert not priced or len(found.unique()) < 10


def test_sums_over_a_large_table_are_made_from_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    error, inputs = torch.randn(2, 50, 8), torch.randn(2, 90, 8, dtype=torch.float64)
    moments = inputs.mT @ inputs
    asked: list[int] = []
    split = torch.Tensor.split
    monkeypatch.setattr(feedback_module, "_FLOATS", 2 * 8 * 7)
    monkeypatch.setattr(torch.Tensor, "split", lambda self, size, dim=0: asked.append(size) or split(self, size, dim))
    found = feedback_module.output_errors(error, moments)
    torch.testing.assert_close(found, ((error.double() @ moments) * error).sum(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(feedback_module.squares(error), error.double().square().sum(2))
    assert asked == [7, 7]
