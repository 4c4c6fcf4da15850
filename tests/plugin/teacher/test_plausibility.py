"""Doubts about data and teacher: none where all is well, and each mistake is told, once and without an error."""

from __future__ import annotations

import re
import warnings

import lloydmax
import pytest
import torch
from lloydmax import demo
from lloydmax.data import unlabelled
from lloydmax.demo.network import DemoResNet
from lloydmax.teacher.plausibility import doubts, tell_doubts
from torch import Tensor, nn

CLOTHES = demo.test_set()[0][:64]


def doubted(model: nn.Module, data: object, trains: str | None = None) -> list[str]:
    return doubts(model, unlabelled(data, model), trains)


@pytest.mark.parametrize("data", [CLOTHES, demo.silhouettes()[::90], CLOTHES[:32], CLOTHES[:1]])
def test_a_healthy_teacher_on_its_own_and_on_foreign_inputs_is_not_doubted(data: Tensor) -> None:
    assert doubted(demo.network(), data, "distill" if len(data) >= 32 else None) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((CLOTHES * 0.353 + 0.286) * 255, "far from what the model was trained on.*between 0 and 255.*0 to 1"),
        (CLOTHES + 5, "far from"),
        (CLOTHES[:1].expand(64, -1, -1, -1) + 1e-3 * torch.randn(64, 1, 28, 28), "all inputs are nearly equal"),
        (CLOTHES[:1].expand(64, -1, -1, -1), "differ by 0.00%"),
    ],
)
def test_wrong_inputs_are_doubted(data: Tensor, words: str) -> None:
    (doubt,) = doubted(demo.network(), data)
    assert re.search(words, doubt)


class Kelvin(nn.Module):
    """Takes temperatures and pressures, and scales them itself."""

    def __init__(self, scaling: nn.Module) -> None:
        super().__init__()
        self.scaling = scaling
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
        for parameter in self.body.parameters():
            parameter.data.mul_(1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.scaling(x))


class Standard(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.new_tensor([293.0] * 8 + [101325.0] * 8)) / x.new_tensor([2.0] * 8 + [500.0] * 8)


def _kept() -> nn.Module:
    norm = nn.BatchNorm1d(16)
    norm.running_mean = torch.tensor([293.0] * 8 + [101325.0] * 8)
    norm.running_var = torch.tensor([4.0] * 8 + [250000.0] * 8)
    return norm


@pytest.mark.parametrize("make", [Standard, _kept])
def test_small_differences_that_the_model_tells_apart_are_not_doubted(make) -> None:
    torch.manual_seed(0)
    model, noise = Kelvin(make()).eval(), torch.randn(64, 16)
    x = torch.cat([293 + 2 * noise[:, :8], 101325 + 500 * noise[:, 8:]], 1)
    assert doubted(model, x) == []
    assert any("nearly equal" in doubt for doubt in doubted(model, x[:1].expand(64, -1)))
    assert any("nearly equal" in doubt for doubt in doubted(model, x[:1] + 1e-5 * x * noise))


def _zeroed() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    for layer in (model[1], model[3]):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return model


def _constant() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        model[1].weight.mul_(1e-9)
        model[1].bias.copy_(torch.arange(10.0))
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (DemoResNet, "DemoResNet looks untrained: every normalization"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.LayerNorm(32), nn.Linear(32, 4)),
            "every normalization",
        ),
        (lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 676, 4)), "every weight is within"),
        (
            lambda: nn.Sequential(nn.ConvTranspose2d(1, 8, 3), nn.Flatten(), nn.Linear(7200, 4)),
            "every weight is within",
        ),
        (_zeroed, "every bias is zero"),
        (_constant, "outputs of Sequential hardly differ"),
    ],
)
def test_a_teacher_that_is_not_trained_is_doubted(make, words: str) -> None:
    torch.manual_seed(0)
    found = doubted(make().eval(), CLOTHES)
    assert any(words in doubt for doubt in found), found


def test_few_samples_are_doubted_where_a_step_trains() -> None:
    (doubt,) = doubted(demo.network(), CLOTHES[:31], "distill")
    assert "'distill' trains on only 31 samples" in doubt


def test_what_cannot_be_run_is_left_to_those_who_need_it() -> None:
    assert doubted(demo.network(), torch.randn(8, 3, 28, 28)) == []


def test_each_doubt_is_told_once_and_nothing_else_changes() -> None:
    model, data = demo.network(), (CLOTHES[:20] * 0.353 + 0.286) * 255
    recipe = {"quantize": [{"layers": "all", "centroids": 4}], "recover": [{"step": "distill", "steps": 1}]}
    state, cache = torch.get_rng_state(), lloydmax.Cache()
    for runs in (1, 0):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            lloydmax.compress(model, recipe, data, progress=False, cache=cache)
        said = [str(warning.message) for warning in told]
        assert [sum(words in message for message in said) for words in ("far from", "trains on only 20")] == [runs] * 2
    assert torch.equal(state, torch.get_rng_state())
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert tell_doubts(demo.network(), unlabelled(CLOTHES, model)) == ()
