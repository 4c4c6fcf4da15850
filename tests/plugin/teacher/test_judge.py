"""The judge: outputs by their own spread, on inputs that are held out."""

from __future__ import annotations

import math

import pytest
import torch
from lloydmax.data import unlabelled
from lloydmax.teacher.agreement import Comparison
from lloydmax.teacher.judge import Damage, Judge, held_out
from torch import Tensor, nn


class Scaled(nn.Module):
    """Two heads of very different scales."""

    def __init__(self, first: float = 1.0, second: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(8, 6)
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Large ones, and small ones."""
        found = self.head(x)
        return 1000 * self.first * found[:, :3], 0.001 * self.second * found[:, 3:]


def judged(student: nn.Module) -> Damage:
    """What the student does to the outputs of the original."""
    teacher = Scaled()
    return Judge(Comparison(teacher, unlabelled(torch.randn(64, 8), teacher))).damage(student)


def test_outputs_count_by_their_own_spread() -> None:
    one, other = judged(Scaled(first=0.9)).each, judged(Scaled(second=0.9)).each
    assert one[1] == other[0] == 0
    assert one[0] == pytest.approx(other[1], rel=0.5) and 1e-3 < one[0] < 1e-1
    assert judged(Scaled()).mean == 0


def test_what_is_measured_tells_the_damage() -> None:
    teacher, student = Scaled(), Scaled(first=0.9, second=1.2)
    judge = Judge(Comparison(teacher, unlabelled(torch.randn(64, 8), teacher)))
    assert judge.of(judge.measured(student)).each == pytest.approx(judge.damage(student).each, rel=1e-6)


@pytest.mark.parametrize(("made", "tokens", "tells"), [(False, False, True), (True, False, False), (True, True, True)])
def test_made_inputs_that_say_nothing_tell_nothing(made: bool, tokens: bool, tells: bool) -> None:
    teacher = nn.Sequential(nn.Embedding(9, 8) if tokens else nn.Identity(), nn.Linear(8, 4))
    source = unlabelled(torch.randint(9, (8, 5)) if tokens else torch.randn(8, 8), teacher)
    source.made = made
    judge = Judge(Comparison(teacher, source))
    assert judge.tells(Damage((3.9,))) and judge.tells(Damage((4.1,))) == tells


def test_one_output_may_not_pay_for_another() -> None:
    assert Damage((0.1, 0.1)).spares_all(Damage((0.07, 0.3)))
    assert not Damage((0.2, 0.1)).spares_all(Damage((0.1, 0.9)))
    assert Damage((math.nan, 0.1)).mean == math.inf and not Damage((math.nan, 0.1)).spares_all(Damage((1.0, 1.0)))


@pytest.mark.parametrize(
    ("samples", "judges"), [(2, 1), (3, 1), (7, 3), (8, 3), (40, 14), (319, 32), (500, 50), (2000, 128)]
)
def test_inputs_that_judge_are_held_out(samples: int, judges: int) -> None:
    model = nn.Linear(1, 1)
    values = torch.arange(samples).float()[:, None]
    parts = held_out(unlabelled(values, model), 128, few=True, seed=0)
    seen = [torch.cat([x for _, batch in part.batches(16) for x in batch.tensors()]).flatten() for part in parts]
    assert [len(part) for part in parts] == [samples - judges, judges]
    assert torch.equal(torch.cat(seen).sort().values, values.flatten())
    for part, found in zip(parts, seen, strict=True):
        indices, batch = next(part.batches(2, torch.tensor([len(part) - 1])))
        assert indices.tolist() == [len(part) - 1] and next(batch.tensors()).item() == found[-1]
        assert torch.equal(next(part.first(2).tensors()).flatten(), found[:2])


@pytest.mark.parametrize(("samples", "apart"), [(1, 0), (319, 0), (320, 32), (20000, 1000)])
def test_of_few_inputs_none_are_held_out_where_nothing_is_judged(samples: int, apart: int) -> None:
    source = unlabelled(torch.zeros(samples, 1), nn.Linear(1, 1))
    work, unseen = held_out(source, 1000, few=False, seed=0)
    assert (len(work), len(unseen)) == ((samples - apart, apart) if apart else (samples, samples))


def test_a_single_input_does_both_and_that_is_told() -> None:
    source = unlabelled(torch.randn(1, 4), nn.Linear(4, 2))
    with pytest.warns(UserWarning, match="one input, none can be held out"):
        assert held_out(source, 128, few=True, seed=0) == (source, source)


def test_a_sample_that_is_not_finite_is_told_by_its_own_number() -> None:
    values = torch.randn(40, 4)
    values[17] = math.nan
    with pytest.warns(UserWarning, match="17"):
        source = unlabelled(values, nn.Linear(4, 2))
        lengths = [sum(len(batch) for _, batch in part.batches(8)) for part in held_out(source, 128, few=True, seed=0)]
    assert sum(lengths) == 39 and list(source.left_out.reasons) == [17]
