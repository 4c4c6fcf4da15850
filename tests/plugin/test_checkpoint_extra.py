"""Extra state of modules is kept where it is plain data, and refused before the work where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax import CheckpointError, RecipeError, hookimpl
from torch import nn

RECIPE = {"quantize": [{"layers": "all", "centroids": 4}]}


class Counting(nn.Linear):
    """A linear layer that keeps something."""

    kept: Any = None

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        if state == {"refuse": 1}:
            raise ValueError("no such state\nat all")
        self.kept = state


def net(kept: Any = None) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(Counting(24, 40), nn.ReLU(), nn.Linear(40, 10))
    made[0].kept = kept
    return made.eval()


@pytest.mark.parametrize("layout", ["named", "compact"])
@pytest.mark.parametrize("kept", [{"calls": 3, "names": ["a", None, 1.5, True]}, [], "text", 0])
def test_plain_data_are_kept(kept: Any, layout: str, tmp_path: Path) -> None:
    result = lloydmax.compress(net(kept), {**RECIPE, "storage": {"layout": layout}}, progress=False)
    size = result.save(tmp_path / "net.safetensors")
    assert size == result.plan.predicted_bytes
    loaded = lloydmax.load(tmp_path / "net.safetensors", net())
    assert loaded[0].kept == kept and type(loaded[0].kept) is type(kept)
    assert lloydmax.inspect(tmp_path / "net.safetensors").format == 2


def test_without_extra_state_the_file_is_of_format_1(tmp_path: Path) -> None:
    lloydmax.compress(net(), RECIPE, progress=False).save(tmp_path / "net.safetensors")
    assert lloydmax.inspect(tmp_path / "net.safetensors").format == 1
    assert lloydmax.load(tmp_path / "net.safetensors", net("mine"))[0].kept == "mine"


def test_a_model_that_is_itself_such_a_layer(tmp_path: Path) -> None:
    lloydmax.compress(net([7])[0], RECIPE, progress=False).save(tmp_path / "net.safetensors")
    assert lloydmax.load(tmp_path / "net.safetensors", net()[0]).kept == [7]


@pytest.mark.parametrize("kept", [(1, 2), {1: 2}, {"a": {3}}, torch.ones(2), float("nan"), b"bytes"])
def test_other_data_are_refused_before_the_work(kept: Any) -> None:
    fitted: list[str] = []

    class Watch:
        @hookimpl
        def lloydmax_parameter_fitted(self, name: str) -> None:
            fitted.append(name)

    with pytest.raises(CheckpointError, match=r"module '0' \(Counting\) keeps extra state that is not plain"):
        lloydmax.compress(net(kept), RECIPE, progress=False, listeners=[Watch()])
    assert not fitted


def test_int8_kernels_keep_none() -> None:
    recipe = {"quantize": [{"layers": "all", "quantizer": "uniform"}], "activations": {"bits": 8}}
    with pytest.raises(RecipeError, match="activations: int8 kernels keep no extra state, as '0' does"):
        lloydmax.compress(net(1), recipe, torch.randn(32, 24), progress=False)


def test_a_model_that_takes_none_is_refused_and_unchanged(tmp_path: Path) -> None:
    lloydmax.compress(net(3), RECIPE, progress=False).save(tmp_path / "net.safetensors")
    lloydmax.compress(net({"refuse": 1}), RECIPE, progress=False).save(tmp_path / "refused.safetensors")
    other = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 10))
    for name, model, message in (
        ("net", other, "extra state of module '0', which takes none"),
        ("refused", net("mine"), "module '0' refuses its extra state: ValueError: no such state"),
    ):
        before = [p.clone() for p in model.parameters()]
        with pytest.raises(CheckpointError, match=message):
            lloydmax.load(tmp_path / f"{name}.safetensors", model)
        assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
        assert getattr(model[0], "kept", None) in (None, "mine") and not lloydmax.codebooks(model)
