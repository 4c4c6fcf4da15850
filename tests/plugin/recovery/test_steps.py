"""Steps on their own, and the folder of a run."""

from __future__ import annotations

import copy
from pathlib import Path

import lloydmax
import pytest
import torch
from conftest import SmallNet
from torch import Tensor

RECIPE = {"quantize": [{"layers": "all", "centroids": 4}], "recover": [{"step": "renormalize"}]}


def test_a_missing_workdir_is_made(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    lloydmax.compress(small_net, RECIPE, pictures, progress=False, workdir=tmp_path / "a" / "b")
    assert len(list((tmp_path / "a" / "b").glob("compress-*"))) == 1
    student = lloydmax.compress(small_net, {"quantize": RECIPE["quantize"]}, progress=False).model
    lloydmax.renormalize(student, pictures, workdir=str(tmp_path / "c"))
    assert (tmp_path / "c").is_dir()


def test_a_workdir_that_cannot_be_is_refused_before_the_model_runs(pictures: Tensor, tmp_path: Path) -> None:
    class NeverRun(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the model was run")

    (tmp_path / "file").write_text("")
    for run in (
        lambda: lloydmax.compress(NeverRun(), RECIPE, pictures, progress=False, workdir=tmp_path / "file"),
        lambda: lloydmax.sweep(NeverRun(), RECIPE, pictures, workdir=tmp_path / "file" / "a"),
        lambda: lloydmax.run_step("renormalize", NeverRun(), NeverRun(), pictures, workdir=tmp_path / "file"),
    ):
        with pytest.raises(lloydmax.OutputError, match="^workdir .*file"):
            run()


def test_a_student_made_in_inference_mode_is_refused(small_net: SmallNet, pictures: Tensor) -> None:
    with torch.inference_mode():
        student = copy.deepcopy(small_net)
    with pytest.raises(lloydmax.ModelError, match="stem.weight of the student was made in inference mode"):
        lloydmax.distill(student, small_net, pictures, steps=1)
