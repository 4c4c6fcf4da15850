"""Bias correction: mean outputs agree afterwards."""

from __future__ import annotations

import copy

import lloydmax
import pytest
import torch
from lloydmax.student import attach
from torch import Tensor, nn


@pytest.fixture
def plain_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5)
    ).eval()


def clustered(model: nn.Module, k: int = 3) -> nn.Module:
    student = copy.deepcopy(model)
    for name in ("0.weight", "2.weight", "5.weight"):
        attach(student, name, lloydmax.fit_codebook(student.get_parameter(name), k))
    return student


def mean_gap(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((student(x).mean(0) - teacher(x).mean(0)).abs().max())


def test_the_mean_output_error_vanishes(plain_net: nn.Module, pictures: Tensor) -> None:
    student = clustered(plain_net)
    before = mean_gap(student, plain_net, pictures)
    found = lloydmax.run_step("correct_bias", student, plain_net, pictures, batch_size=10)
    assert found == {"layers": 3, "samples": 96}
    assert mean_gap(student, plain_net, pictures) < 1e-4 * max(before, 1e-2)


def test_correcting_all_at_once_overshoots_in_depth(plain_net: nn.Module, pictures: Tensor) -> None:
    student, parallel = clustered(plain_net), clustered(plain_net)
    lloydmax.run_step("correct_bias", student, plain_net, pictures)
    lloydmax.run_step("correct_bias", parallel, plain_net, pictures, sequential=False)
    assert mean_gap(student, plain_net, pictures) < mean_gap(parallel, plain_net, pictures)


def test_in_a_recipe_and_with_biases_that_have_codebooks(plain_net: nn.Module, pictures: Tensor) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 3}], "recover": [{"step": "correct_bias"}]}
    result = lloydmax.compress(plain_net, recipe, data=pictures, progress=False)
    assert result.report.stages[-1].agreement.mse < result.report.stages[1].agreement.mse
    recipe["quantize"].append({"layers": "all", "parameter": "bias", "centroids": 1})
    with pytest.warns(UserWarning, match="no compressed .* has a bias"):
        lloydmax.compress(plain_net, recipe, data=pictures, progress=False)
