"""Inputs that are made beside few words."""

from __future__ import annotations

import lloydmax
import torch
from lloydmax.data import Source, unlabelled
from lloydmax.hooks.events import Events
from lloydmax.recovery.made import beside_few
from torch import Tensor, nn


class Words(nn.Module):
    """Words to classes, a layer of ``width``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(50, width)
        self.layer, self.head = nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.layer(self.words(x)).relu().mean(1))
        return found


def parts(model: nn.Module, data: Tensor) -> tuple[Source, Source]:
    return unlabelled(data[:12], model), unlabelled(data[12:], model)


def test_made_words_stand_beside_few_and_change_none_of_them() -> None:
    model, data = Words(64).eval(), torch.randint(0, 50, (20, 6))
    work, judging = beside_few(model, parts(model, data), 0, Events())
    assert (len(work), len(judging)) == (12 + 64, 8 + 32) and "64 made ones" in work.describe()
    assert torch.equal(work.first(12).args[0], data[:12]) and torch.equal(judging.first(8).args[0], data[12:])
    made = work.first(76).args[0][12:]
    assert made.dtype == torch.int64 and made.shape == (64, 6) and 0 <= int(made.min()) <= int(made.max()) < 50


def test_enough_words_and_numbers_stay_alone() -> None:
    narrow, data = Words(8).eval(), torch.randint(0, 50, (20, 6))
    given = parts(narrow, data)
    assert beside_few(narrow, given, 0, Events()) is given
    table = nn.Linear(64, 64)
    real = parts(table, torch.randn(20, 64))
    assert beside_few(table, real, 0, Events()) is real


def test_a_run_with_few_words_says_what_it_was_judged_on() -> None:
    torch.manual_seed(0)
    model, data = Words(64).eval(), torch.randint(0, 50, (24, 6))
    recipe = lloydmax.recipe_for(model, 8, data, effort=0)
    first, again = (lloydmax.compress(model, recipe, data, progress=False) for _ in range(2))
    assert "32 made ones" in (first.report.measured_on or "")
    pairs = zip(*(lloydmax.codebooks(found.model).values() for found in (first, again)), strict=True)
    assert all(torch.equal(one.codes, other.codes) for one, other in pairs)
