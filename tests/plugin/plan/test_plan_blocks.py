"""Plans of vector codebooks."""

from __future__ import annotations

from pathlib import Path

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax.student.attachment import attach
from torch import nn


def test_a_layer_that_blocks_do_not_divide_is_named(small_net: SmallNet, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("quantize:\n  - layers: all\n    centroids: 4\n    block: 4\n")
    with pytest.raises(lloydmax.RecipeError) as caught:
        lloydmax.plan(small_net, tmp_path / "r.yaml")
    assert "r.yaml:4: quantize[1].block: stem.weight: its shape (8, 3, 3, 3) has 27 weights" in str(caught.value)
    assert "lengths that do: 1, 3, 9, 27" in str(caught.value) and "'stem' without 'block'" in str(caught.value)
    rules = [{"layers": "all", "centroids": 4, "block": 4}, {"layers": ["stem", "depthwise"], "centroids": 4}]
    assert lloydmax.plan(small_net, {"quantize": rules}).parameters["padded.weight"].block == 4


def test_the_plan_is_verified(small_net: SmallNet) -> None:
    plan, model = lloydmax.plan(small_net, {"quantize": [{"layers": "head.0", "centroids": 4, "block": 4}]}), small_net
    attach(model, "head.0.weight", lloydmax.fit_codebook(model.head[0].weight, 4, block=2))
    with pytest.raises(lloydmax.PlanMismatchError, match=r"4 centroids per tensor in blocks of 2, planned .* of 4"):
        lloydmax.verify_plan(plan, model)


def test_the_plan_counts_distinct_blocks() -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2, 1, 2]]).expand(6, 4))
        model[0].weight[0, 2:] = torch.tensor([2.0, 1.0])
    for granularity in ("tensor", "channel", "group:4"):
        rule = {"layers": "all", "centroids": 16, "block": 2, "granularity": granularity}
        plan = lloydmax.plan(model, {"quantize": [rule]})
        assert plan.parameters["0.weight"].centroids == 2
        result = lloydmax.compress(model, {"quantize": [rule]}, progress=False)
        assert torch.equal(result.model[0].weight, model[0].weight)
