"""Codes that keep the outputs, and stay nearer to the weights than zeros are."""

from __future__ import annotations

from dataclasses import replace

import lloydmax
import torch
from lloydmax_strategies.reconstruction.choice import _chosen, choice, errors


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
