"""Samples weighted by the teacher's confidence."""

from __future__ import annotations

import copy

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import RecoveryError
from lloydmax.extend import Leaf
from lloydmax_strategies.training.loop import TrainingOptions
from lloydmax_strategies.training.mimic import distance
from lloydmax_strategies.training.weighting import MOST, confidence_weights
from torch import Tensor, nn


def test_weights_follow_the_largest_probability() -> None:
    scores = torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3]]).log()
    assert torch.allclose(confidence_weights([scores], 1, [1]), torch.tensor([0.8, 0.4]) / 0.6)
    assert torch.allclose(confidence_weights([scores], 2, [1]), torch.tensor([0.64, 0.16]) / 0.4)
    assert torch.allclose(confidence_weights([scores], -1, [1]), torch.tensor([1.25, 2.5]) / 1.875)


def test_no_sample_takes_the_whole_batch() -> None:
    scores = torch.zeros(100, 1000)
    scores[1:, 0] = 50
    weights = confidence_weights([scores], -4, [1])
    assert weights.isfinite().all() and weights.max() == MOST


@pytest.mark.parametrize(("shape", "axis"), [((6, 4, 3, 3), 1), ((6, 5, 4), 2)])
def test_several_decisions_of_a_sample_count_by_their_mean(shape: tuple[int, ...], axis: int) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    sure = scores.softmax(axis).amax(axis).flatten(1).mean(1)
    assert torch.allclose(confidence_weights([torch.randn(6), scores], 1, [None, axis]), sure / sure.mean())


@pytest.mark.parametrize("loss", ["mse", "l1", "kl", "cosine", "auto"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 3), (6, 5, 4)])
def test_a_weighted_loss_is_the_mean_of_weighted_samples(loss: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    options, weights = TrainingOptions(loss=loss, temperature=2.0), torch.rand(6, generator=generator)
    axis = 2 if len(shape) == 3 else 1

    def apart(samples: slice, weights: Tensor | None = None) -> Tensor:
        return distance(ours[samples], theirs[samples], options, axis, Leaf((), kind="classes"), weights)

    assert torch.allclose(apart(slice(None), torch.ones(6)), apart(slice(None)))
    alone = torch.stack([apart(slice(i, i + 1)) for i in range(6)])
    assert torch.allclose(apart(slice(None), weights), (weights * alone).mean())


def test_distillation_with_weights_still_reaches_the_teacher(small_net: SmallNet, pictures: Tensor) -> None:
    student = copy.deepcopy(small_net)
    with torch.no_grad():
        student.head[2].weight.add_(0.3)
    found = lloydmax.distill(student, small_net, pictures, epochs=15, batch_size=32, lr=0.02, confidence=-1.0)
    assert found["agreement"] > 0.9 and found["teacher_runs"] == "once"


def test_an_output_without_classes_is_told() -> None:
    with pytest.raises(RecoveryError, match="'confidence' needs an output with classes"):
        lloydmax.distill(nn.Linear(3, 1), nn.Linear(3, 1), torch.randn(16, 3), confidence=1.0)
    with pytest.raises(RecoveryError, match="confidence"):
        lloydmax.distill(nn.Linear(3, 2), nn.Linear(3, 2), torch.randn(16, 3), confidence=5.0)
