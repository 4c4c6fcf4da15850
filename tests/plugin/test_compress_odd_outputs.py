"""Samples that are finite, but for which the original is not: left out, named, and no step may ruin a model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import DataError, RecoveryError
from lloydmax.hooks.protocols import Recovery
from lloydmax.recovery.steps import recover
from lloydmax.report.harm import _harm
from lloydmax.teacher import Agreement
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ALL: dict[str, Any] = {"quantize": [{"layers": "all", "centroids": 8}], "trainable": ["all"]}
STEPS: list[dict[str, Any]] = [
    {"step": "renormalize"},
    {"step": "renormalize", "relative": True},
    {"step": "correct_bias"},
    {"step": "reconstruct"},
    {"step": "distill", "steps": 4, "batch_size": 16},
    {"step": "distill", "steps": 4, "batch_size": 16, "loss": "kl"},
]
RECIPES = [
    *({**ALL, "recover": [step]} for step in STEPS),
    {"quantize": [{"layers": "all", "centroids": 8, "importance": "fisher"}]},
    {
        "quantize": [{"layers": ["net.stem", "net.head.0"], "quantizer": "uniform", "bits": 8}],
        "activations": {"bits": 8},
    },
]


class Standardized(nn.Module):
    """Standardizes every picture by its own deviation: a flat one gives NaN."""

    def __init__(self, net: SmallNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        axes = (1, 2, 3)
        out: Tensor = self.net((x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True))
        return out


@pytest.fixture
def net(small_net: SmallNet) -> Standardized:
    return Standardized(small_net).eval()


@pytest.fixture
def flat() -> Tensor:
    pictures = torch.randn(200, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    pictures[77] = 0.5
    return pictures


def said_once(told: list[warnings.WarningMessage], words: str) -> bool:
    return sum(words in str(warning.message) for warning in told) == 1


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: str(recipe.get("recover", recipe))[:60])
@pytest.mark.parametrize("reference", [False, True])
def test_a_sample_without_outputs_is_left_out(
    recipe: dict[str, Any], reference: bool, net: Standardized, flat: Tensor
) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = lloydmax.compress(net, recipe, flat, flat[:60] if reference else None, progress=False)
    assert said_once(told, "sample 77 (the original's output for it is NaN)")
    assert found.report.data["data"]["left_out"] == 1
    assert all(bool(torch.isfinite(parameter).all()) for parameter in found.model.parameters())
    assert bool(torch.isfinite(found.model(flat[:8])).all())


def test_a_huge_value_is_left_out_as_well(small_net: SmallNet, flat: Tensor) -> None:
    flat[5, 0, 2, 2] = 1e30
    with pytest.warns(UserWarning, match=r"sample 5 \(the original's output for it is infinite"):
        found = lloydmax.compress(small_net, {**ALL, "recover": [{"step": "correct_bias"}]}, flat, progress=False)
    assert bool(torch.isfinite(found.model(flat[:4])).all())


@pytest.mark.parametrize(
    "use",
    [
        lambda net, data: lloydmax.search(net, ALL, data, {"bits": 3}, progress=False).found.choice,
        lambda net, data: lloydmax.distill(copy.deepcopy(net), net, data, steps=2, batch_size=16)["loss"],
        lambda net, data: lloydmax.data_fitness(net, {"these": data})[0].class_use,
        lambda net, data: (
            lloydmax.compress(
                net,
                {**ALL, "recover": STEPS[-1:]},
                DataLoader(TensorDataset(data), batch_size=16),
                progress=False,
            ).report.agreement.after
        ),
    ],
)
def test_what_is_found_is_what_good_samples_give(
    use: Callable[[nn.Module, Tensor], Any], net: Standardized, flat: Tensor
) -> None:
    with pytest.warns(UserWarning, match="sample 77"):
        found = use(net, flat)
    assert found == found


def test_too_many_are_refused(net: Standardized, flat: Tensor) -> None:
    flat[:5] = 1.0
    with pytest.raises(DataError, match=r"6 of 200 samples cannot be used.*sample.* 0, 1, 2, 3, 4, 77 \(the original"):
        lloydmax.compress(net, ALL, flat, progress=False)


def test_other_runs_with_the_same_data_forget_them(net: Standardized, small_net: SmallNet, flat: Tensor) -> None:
    source = lloydmax.data.unlabelled(flat, net)
    with pytest.warns(UserWarning, match="sample 77"):
        lloydmax.compress(net, ALL, source, progress=False)
    assert lloydmax.compress(small_net, ALL, source, progress=False).report.data["data"]["left_out"] == 0


class Attends(nn.Module):
    """A transformer whose fast path gives NaN for a row that is all padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x, src_key_padding_mask=attention_mask == 0))
        return out


@pytest.mark.parametrize("step", [{"step": "correct_bias"}, {"step": "distill", "steps": 2, "batch_size": 16}])
def test_a_row_that_is_all_padding_is_left_out(step: dict[str, Any]) -> None:
    torch.manual_seed(0)
    mask = torch.ones(120, 5, dtype=torch.int64)
    mask[:, 3:] = 0
    mask[9] = 0
    with pytest.warns(UserWarning, match="sample 9 "):
        found = lloydmax.compress(
            Attends().eval(),
            {**ALL, "recover": [step]},
            {"x": torch.randn(120, 5, 8), "attention_mask": mask},
            progress=False,
        )
    assert found.report.data["data"]["left_out"] == 1
    assert all(bool(torch.isfinite(parameter).all()) for parameter in found.model.parameters())


class Ruin:
    """A step that makes one bias NaN."""

    def run(self, recovery: Recovery) -> dict[str, Any]:
        next(recovery.student.parameters()).data[0] = torch.nan
        return {}


def test_a_step_that_makes_nan_is_refused(small_net: SmallNet, flat: Tensor) -> None:
    recovery = Recovery(copy.deepcopy(small_net), small_net, lloydmax.data.unlabelled(flat, small_net))
    with pytest.raises(RecoveryError, match="'ruin' made .* NaN or infinite; leave the step out"):
        list(recover(recovery, [("ruin", Ruin())]))  # type: ignore[list-item]


def test_a_student_alone_is_as_before(net: Standardized, flat: Tensor) -> None:
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(RecoveryError, match="sample 77 of data"):
        lloydmax.renormalize(net, flat)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_nan_counts_as_harm() -> None:
    assert _harm(Agreement(1.0, 0.1, 0.1, 10), Agreement(1.0, torch.nan, torch.nan, 10))
