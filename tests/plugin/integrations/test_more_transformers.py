"""Architectures that nothing was written for: codes, folders, sequences, kernels, reconstruction."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch

hf = pytest.importorskip("transformers")

import lloydmax.integrations.transformers  # noqa: E402
from hf_models import answers  # noqa: E402
from more_transformers import NETWORKS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*looks untrained", "ignore:.*native core")
QUICK = ("recurrent-gemma", "deepseek-v3", "gptj")
ALL = {"quantize": [{"layers": "all", "centroids": 16, "granularity": "channel"}]}
RECONSTRUCTED = {**ALL, "recover": [{"step": "reconstruct", "samples": 2}]}


def written(model: Any, inputs: dict[str, torch.Tensor], cache: bool) -> torch.Tensor:
    found: torch.Tensor = model.generate(
        input_ids=inputs["input_ids"], use_cache=cache, do_sample=False, max_new_tokens=5
    )
    return found


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_an_architecture_goes_all_the_way(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]
    model = network.make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing large is left
        for recipe in (ALL, lloydmax.recipe_for(model, 4, network.inputs, effort=0)):
            plan = lloydmax.plan(model, recipe)
            assert sum(p.weights for p in plan.parameters.values()) >= 0.98 * plan.total_weights

    student: Any = lloydmax.compress(model, ALL, progress=False).model
    student.save_pretrained(str(tmp_path))
    loaded = getattr(hf, type(model).__name__).from_pretrained(str(tmp_path))
    wanted = answers(student, network.inputs)
    assert all(map(torch.equal, answers(loaded, network.inputs), wanted))
    if network.generates:
        assert torch.equal(written(loaded, network.inputs, True), written(student, network.inputs, False))

    for kernel, off in (("codes", 1e-4), ("codes-fast", 2e-2)):
        lloydmax.set_kernel(loaded, kernel)
        for ours, theirs in zip(answers(loaded, network.inputs), wanted, strict=True):
            assert float((ours - theirs).norm()) <= off * float(theirs.norm())

    step = lloydmax.compress(model, RECONSTRUCTED, network.inputs, progress=False).report.recovery[0]
    assert step["error"] < step["error_before"]
    assert step["layers"] + len(step["skipped"]) == len(plan.parameters)
