"""Bias correction: mean outputs agree afterwards."""

from __future__ import annotations

import copy

import lloydmax
import pytest
import torch
from lloydmax.student.attachment import attach
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
    found = lloydmax.run_step("correct_bias", student, plain_net, pictures, batch_size=10, relative=False)
    assert (found["layers"], found["samples"]) == (3, 96) and 0 < found["corrected"] < 1
    assert mean_gap(student, plain_net, pictures) < 1e-4 * max(before, 1e-2)


def test_correcting_all_at_once_overshoots_in_depth(plain_net: nn.Module, pictures: Tensor) -> None:
    student, parallel = clustered(plain_net), clustered(plain_net)
    lloydmax.run_step("correct_bias", student, plain_net, pictures, relative=False)
    lloydmax.run_step("correct_bias", parallel, plain_net, pictures, relative=False, sequential=False)
    assert mean_gap(student, plain_net, pictures) < mean_gap(parallel, plain_net, pictures)


def test_outputs_that_clustering_made_smaller_stay_in_proportion(plain_net: nn.Module, pictures: Tensor) -> None:
    def correlation(**options: object) -> float:
        student = clustered(plain_net, 256)
        with torch.no_grad():
            for name in ("0", "2", "5"):
                student.get_submodule(name).parametrizations.weight.original.mul_(0.4)
            lloydmax.run_step("correct_bias", student, plain_net, pictures, **options)
            both = torch.stack([student(pictures).flatten(), plain_net(pictures).flatten()])
        return float(torch.corrcoef(both)[0, 1])

    assert correlation() > 0.999 > 0.98 > correlation(relative=False)


def test_channels_that_are_constant_get_the_mean(plain_net: nn.Module, pictures: Tensor) -> None:
    with torch.no_grad():
        plain_net[5].weight[0] = 0
        plain_net[5].bias[0] = 3
    student = clustered(plain_net)
    with torch.no_grad():
        student[5].bias[0] = 1
    lloydmax.run_step("correct_bias", student, plain_net, pictures)
    with torch.no_grad():
        assert float(student(pictures)[:, 0].mean()) == pytest.approx(3, abs=1e-3)


def test_both_models_see_the_same_of_samples_that_differ_each_time(plain_net: nn.Module) -> None:
    class Noise(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> Tensor:
            return torch.randn(3, 12, 12)

    student = copy.deepcopy(plain_net)
    for name in ("0.weight", "2.weight", "5.weight"):
        attach(student, name, lloydmax.fit_codebook(student.get_parameter(name), 256))
    before = {name: value.clone() for name, value in student.named_parameters() if "bias" in name}
    lloydmax.run_step("correct_bias", student, plain_net, Noise(), batch_size=16)
    changes = [
        float((value.detach() - before[name]).abs().max())
        for name, value in student.named_parameters()
        if name in before
    ]
    assert len(changes) == 3 and max(changes) < 1e-2


def test_every_layer_runs_about_twice(plain_net: nn.Module, pictures: Tensor) -> None:
    student, runs = clustered(plain_net), []
    student[0].register_forward_hook(lambda *_: runs.append(1))
    lloydmax.run_step("correct_bias", student, plain_net, pictures, batch_size=96)
    settling, order, trial = 1, 1, 3
    assert len(runs) <= settling + order + trial + 2


def test_in_a_recipe_and_with_biases_that_have_codebooks(plain_net: nn.Module, pictures: Tensor) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 3}], "recover": [{"step": "correct_bias"}]}
    result = lloydmax.compress(plain_net, recipe, data=pictures, progress=False)
    assert result.report.stages[-1].agreement.mse < result.report.stages[1].agreement.mse
    recipe["quantize"].append({"layers": "all", "parameter": "bias", "centroids": 1})
    with pytest.warns(UserWarning, match="no compressed .* has a bias"):
        lloydmax.compress(plain_net, recipe, data=pictures, progress=False)
