"""Where int8 kernels overflow, weights whose bits are left open get 7, and everyone is told."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax.runtime import machine
from lloydmax.student.int8.own.layers import IntegerLayer
from torch import Tensor

RULE: dict[str, Any] = {"layers": "all", "except": ["padded"], "quantizer": "uniform", "granularity": "channel"}
RECIPE: dict[str, Any] = {"quantize": [RULE, {"layers": "head.2", "centroids": 5}], "activations": {"samples": 16}}


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """An x86 machine without VNNI."""
    monkeypatch.setattr(machine, "is_x86", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("host", ["fx", "own"])
def test_open_bits_become_7(small_net: SmallNet, pictures: Tensor, tmp_path: Path, host: str) -> None:
    recipe = {**RECIPE, "activations": {"samples": 16, "host": host}}
    with pytest.warns(UserWarning, match="lacks VNNI") as told:
        result = lloydmax.compress(small_net, recipe, pictures, progress=False)
    assert sum("lacks VNNI" in str(each.message) for each in told) == 1
    assert any("lacks VNNI" in note for note in result.report.notes)
    assert {p.centroids for p in result.plan.parameters.values()} == {127, 5}
    lloydmax.verify_plan(result.plan, result.model)
    result.save(tmp_path / "m.safetensors")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        loaded = lloydmax.load(tmp_path / "m.safetensors", SmallNet())
        assert torch.equal(loaded(pictures), result.model(pictures))


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("given", [{"bits": 8}, {"levels": 255}, {"bits": 4}])
def test_what_is_written_stays(small_net: SmallNet, given: dict[str, int]) -> None:
    plan = lloydmax.plan(small_net, {**RECIPE, "quantize": [{**RULE, **given}]})
    assert {p.options.bits for p in plan.parameters.values()} == {given.get("bits", 8)}
    assert not any("VNNI" in note for note in plan.notes)


@pytest.mark.usefixtures("old")
def test_weights_alone_stay(small_net: SmallNet) -> None:
    plan = lloydmax.plan(small_net, {"quantize": [RULE]})
    assert {p.centroids for p in plan.parameters.values()} == {255}


@pytest.mark.usefixtures("old")
def test_without_a_host_8_bits_are_computed_in_floats(small_net: SmallNet, pictures: Tensor) -> None:
    rule = {**RULE, "bits": 8}
    recipe = {"quantize": [rule, {**rule, "layers": "stem", "bits": 7}], "activations": {"samples": 16, "host": "own"}}
    model = lloydmax.compress(small_net, recipe, pictures, progress=False).model
    layers = {name: each for name, each in model.graph.named_modules() if isinstance(each, IntegerLayer)}
    assert {name: each.kernel() is not None for name, each in layers.items()} == {
        name: name == "stem" for name in ("stem", "depthwise", "head.0", "head.2")
    }


def test_a_machine_with_vnni_has_8(small_net: SmallNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    plan = lloydmax.plan(small_net, RECIPE)
    assert {p.centroids for p in plan.parameters.values()} == {255, 5}
