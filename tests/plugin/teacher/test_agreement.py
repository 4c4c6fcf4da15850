"""How a student is compared with its teacher."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from lloydmax import RecoveryError
from lloydmax.data.opening import unlabelled
from lloydmax.teacher.agreement import Agreement, Comparison, accuracy, divergence
from torch import Tensor, nn


class Table(nn.Module):
    """Answers with a row of its table."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows[x[:, 0].long()]


INPUTS = torch.arange(4.0)[:, None]
TEACHER = Table([[2.0, 0], [0, 2], [1, 0], [0, 1]])
STUDENT = Table([[2.0, 0], [2, 0], [1, 0], [0, 3]])


def test_what_is_measured() -> None:
    told: list[tuple[int, int]] = []
    found = Comparison(TEACHER, unlabelled(INPUTS, TEACHER)).measure(STUDENT, lambda *done: told.append(done))
    assert (found.top1, found.samples) == (0.75, 4) and told == [(4, 4)]
    assert found.mse == pytest.approx((4 + 4 + 4) / 8)
    wrong = 2 * (math.exp(2) - 1) / (math.exp(2) + 1)
    p = math.exp(1) / (math.exp(1) + 1)
    sharper = p * (math.log(p) - math.log(math.exp(3) / (math.exp(3) + 1))) + (1 - p) * (
        math.log(1 - p) + math.log(math.exp(3) + 1)
    )
    assert found.kl == pytest.approx((wrong + sharper) / 4, rel=1e-5)


def test_the_teacher_agrees_with_itself() -> None:
    found = Comparison(TEACHER, unlabelled(INPUTS, TEACHER)).measure(TEACHER)
    assert (found.top1, found.mse) == (1.0, 0.0) and found.kl == pytest.approx(0.0, abs=1e-7)


def test_some_inputs_are_drawn_or_named() -> None:
    source = unlabelled(INPUTS, TEACHER)
    named = Comparison(TEACHER, source, torch.tensor([3, 1]))
    assert named.order.tolist() == [1, 3] and named.describe().startswith("2 of ")
    assert named.measure(STUDENT).top1 == 0.5 and named.measure(STUDENT).samples == 2
    drawn = Comparison(TEACHER, source, 3, seed=5)
    assert len(drawn.order) == 3 and torch.equal(drawn.order, Comparison(TEACHER, source, 3, seed=5).order)
    assert not Comparison(TEACHER, source).describe().startswith("4 of")


def test_outputs_without_classes_have_an_error_only() -> None:
    teacher, student = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for model, bias in ((teacher, 0.0), (student, 0.5)):
            model.weight.fill_(1)
            model.bias.fill_(bias)
    found = Comparison(teacher, unlabelled(INPUTS, teacher)).measure(student)
    assert (found.top1, found.kl, found.mse) == (None, None, 0.25)


def test_accuracy_is_the_share_of_right_labels() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    assert accuracy(TEACHER, unlabelled(INPUTS, TEACHER), labels) == 0.75
    assert accuracy(STUDENT, unlabelled(INPUTS, STUDENT), labels) == 0.5
    model = nn.Unflatten(1, (1, 1))
    with pytest.raises(RecoveryError, match=r"needs an output of shape \(N, classes\), got \(4, 1, 1\)"):
        accuracy(model, unlabelled(INPUTS, model), labels)


def test_divergence_is_nothing_between_equals_and_grows() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    assert divergence(scores, scores, 1) == pytest.approx(0.0, abs=1e-7)
    assert 0 < float(divergence(scores, 2 * scores, 1)) < float(divergence(scores, 3 * scores, 1))
    assert float(divergence(scores, 2 * scores, 1, 10.0)) < float(divergence(scores, 2 * scores, 1))


def test_what_was_kept_is_read_again_and_of_earlier_versions_too() -> None:
    found = Comparison(TEACHER, unlabelled(INPUTS, TEACHER)).measure(STUDENT)
    kept = asdict(found)
    assert Agreement.read(json.loads(json.dumps(kept))) == found and found.damage == sum(found.apart) > 0
    del kept["apart"]
    assert Agreement.read(kept) == replace(found, apart=())
    with pytest.raises((TypeError, ValueError)):
        Agreement.read(kept | {"apart": ["much"]})
