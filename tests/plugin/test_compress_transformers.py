"""Networks of transformers as they come: what `all` and `recipe_for` cover, files, and sequences that they make."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from tiny_transformers import NETWORKS, Network
from torch import nn

ALL = {"quantize": [{"layers": "all", "centroids": 4, "granularity": "group:64"}]}


def covered(model: nn.Module, plan: lloydmax.Plan) -> float:
    """Share of the parameters that have codes."""
    return sum(p.weights for p in plan.parameters.values()) / plan.total_weights


def planned(model: nn.Module, recipe: Any) -> lloydmax.Plan:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing large is left
        return lloydmax.plan(model, recipe)


def written(model: nn.Module, inputs: dict[str, torch.Tensor], cache: bool) -> torch.Tensor:
    torch.manual_seed(0)
    given = {"input_ids": inputs["input_ids"], "use_cache": cache, "do_sample": False, "max_new_tokens": 5}
    found: torch.Tensor = model.generate(**given)  # type: ignore[operator]
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_nearly_all_of_a_network_has_codes_and_comes_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Network = NETWORKS[name]
    model = network.make()
    assert covered(model, planned(model, lloydmax.recipe_for(model, 4, network.inputs, effort=0))) >= 0.98
    plan = planned(model, ALL)
    assert covered(model, plan) >= 0.98
    student = lloydmax.compress(model, ALL, progress=False).model
    lloydmax.verify_plan(plan, student)
    lloydmax.save(student, tmp_path / "model.safetensors")
    loaded = lloydmax.load(tmp_path / "model.safetensors", network.make())
    with torch.no_grad():
        ours, theirs = student(**network.inputs)[0], loaded(**network.inputs)[0]
    assert torch.equal(ours, theirs) and torch.isfinite(ours).all()
    if network.generates:
        assert torch.equal(written(loaded, network.inputs, True), written(student, network.inputs, False))
