"""Classes that the original masks out by minus infinity: everything works as on the others alone."""

from __future__ import annotations

import math
import warnings
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax.extend import comparable, divergences
from torch import Tensor, nn

ALL: dict[str, Any] = {"quantize": [{"layers": "all", "centroids": 8}], "trainable": ["all"]}
TRAINED: dict[str, Any] = {"step": "distill", "epochs": 3, "batch_size": 16, "held_out": 0.2}
HIDDEN = 3


class Masked(nn.Module):
    """The class 3 is hidden in every sample, or where its first value is positive."""

    def __init__(self, net: SmallNet, always: bool = True) -> None:
        super().__init__()
        self.net, self.always = net, always

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        mask = torch.zeros_like(scores, dtype=torch.bool)
        mask[:, HIDDEN] = True if self.always else x[:, 0, 0, 0] > 0
        return scores.masked_fill(mask, -math.inf)


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(96, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("more", [{"loss": loss} for loss in ("mse", "kl", "cosine", "l1")] + [{"confidence": 1.0}])
def test_training_gets_nearer(more: dict[str, Any], always: bool, small_net: SmallNet, pictures: Tensor) -> None:
    net = Masked(small_net, always).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lloydmax.compress(net, {**ALL, "recover": [{**TRAINED, **more}]}, pictures, progress=False).report
    before, after = (stage.agreement for stage in found.stages if stage.agreement is not None)
    assert before is not None and after is not None and before.kl is not None and after.kl is not None
    assert found.recovery[0]["stopped"] == "all steps done"
    assert math.isfinite(before.mse + before.kl) and after.mse < before.mse and after.kl < before.kl


def test_a_hidden_class_is_measured_as_if_it_were_not_there(small_net: SmallNet, pictures: Tensor) -> None:
    ours, theirs = (torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    rest = [0, 1, 2]
    masked = [torch.cat([scores[:, rest], torch.full((5, 1), -math.inf)], 1) for scores in (ours, theirs)]
    torch.testing.assert_close(divergences(*masked, 1), divergences(ours[:, rest], theirs[:, rest], 1))
    assert all(bool((pair[:, 3] == 0).all()) for pair in comparable(ours, masked[1]))
    assert comparable(ours, theirs) == (ours, theirs)


def test_choosing_and_importances(small_net: SmallNet, pictures: Tensor) -> None:
    net = Masked(small_net).eval()
    chosen = lloydmax.search(net, ALL, pictures, {"bits": 3}, progress=False)
    assert math.isfinite(chosen.measured.mse) and all(math.isfinite(row["damage"]) for row in chosen.rows())
    weighted = {"quantize": [{"layers": "all", "centroids": 8, "importance": "fisher"}]}
    assert lloydmax.compress(net, weighted, pictures, progress=False).report.agreement.after > 0.9
