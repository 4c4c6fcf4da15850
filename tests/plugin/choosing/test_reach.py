"""A budget out of reach is refused before the model is run, and one that is only just in reach is not."""

from __future__ import annotations

from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import BudgetError, DataError
from torch import Tensor

ALL = {"quantize": [{"layers": "all"}]}
ENTROPY = {**ALL, "storage": {"codes": "entropy"}}


class NeverRun(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was run")


@pytest.mark.parametrize("recipe", [ALL, ENTROPY, {**ALL, "recover": [{"step": "equalize", "method": "batch_norm"}]}])
@pytest.mark.parametrize("budget", [{"bytes": 900}, {"reduction": 0.99}, {"bits": 0.05}])
def test_out_of_reach(recipe: dict[str, Any], budget: dict[str, float], pictures: Tensor) -> None:
    with pytest.raises(BudgetError, match="the budget .* bytes"):
        lloydmax.search(NeverRun().eval(), recipe, pictures, budget, centroids=[2, 4])


@pytest.mark.parametrize("storage", [{}, {"codes": "entropy"}])
def test_just_in_reach(small_net: SmallNet, pictures: Tensor, storage: dict[str, str]) -> None:
    recipe = {**ALL, "storage": storage}
    least = lloydmax.search(small_net, recipe, pictures, {"bytes": 10**6}, centroids=[2], samples=16).found
    search = lambda budget: lloydmax.search(small_net, recipe, pictures, budget, centroids=[2, 4], samples=16)  # noqa: E731
    assert search({"bytes": least.file_bytes}).found.file_bytes == least.file_bytes
    assert search({"bits": least.bits * 1.001}).found.choice == least.choice
    with pytest.raises(BudgetError):
        search({"bytes": least.file_bytes - 1 if not storage else 1000})


def test_agreements_are_measured(pictures: Tensor) -> None:
    with pytest.raises(DataError, match="was run"):
        lloydmax.search(NeverRun().eval(), ALL, torch.randn(16, 3, 12, 12), {"agreement": 0.9}, centroids=[2])
