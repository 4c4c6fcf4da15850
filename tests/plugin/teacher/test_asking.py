"""What inputs a model takes, told by asking."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lloydmax.teacher.asking import Wanted, asked
from torch import Tensor, nn


class Words(nn.Module):
    """Tables of words and of positions, the smaller one first."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.words, self.head = nn.Embedding(40, 8), nn.Embedding(900, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.words(x) + self.places(torch.arange(x.shape[1])))
        return found


class Columns(nn.Module):
    """A table for each column."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(size, 4) for size in (3, 50, 7)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([table(x[:, at]) for at, table in enumerate(self.tables)], 1)


class Pair(nn.Module):
    """A mask beside the numbers, by name, and a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.conv = nn.Embedding(30, 4), nn.Conv2d(3, 4, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, picture: Tensor) -> Tensor:
        text = (self.words(input_ids) * attention_mask[..., None]).mean(1)
        return text + self.conv(picture).mean((2, 3))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(12, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[1][-1]


def pooled(*convolutions: nn.Module) -> nn.Module:
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vectors": (lambda: nn.Sequential(nn.Linear(11, 4), nn.BatchNorm1d(4)), (11,)),
    "words": (Words, (32,)),
    "columns": (Columns, (3,)),
    "pictures": (lambda: pooled(nn.Conv2d(3, 4, 3)), (3, 32, 32)),
    "grey pictures": (lambda: pooled(nn.Conv2d(1, 4, 3)), (1, 28, 28)),
    "strips": (lambda: pooled(nn.Conv2d(1, 4, (10, 4))), (1, 32, 100)),
    "large pictures": (lambda: pooled(*(nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, 1) for i in range(5))), (3, 112, 112)),
    "one size": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3, 2), nn.Flatten(), nn.Linear(2 * 23 * 23, 2)), (3, 48, 48)),
    "frames": (Recurrent, (64, 12)),
    "sound": (lambda: nn.Sequential(nn.Conv1d(1, 2, 9, 4), nn.AdaptiveAvgPool1d(1)), (1, 256)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_layers_tell(case: str) -> None:
    build, shape = CASES[case]
    found = asked(build().eval())
    assert found is not None and [form.shape for form in found.forms] == [shape]


def test_numbers_reach_as_far_as_the_table_that_they_are_looked_up_in() -> None:
    words, columns = (asked(model) for model in (Words(), Columns()))
    assert words is not None and columns is not None and words.only is not None and columns.only is not None
    assert words.only.below is not None and words.only.below.item() == 900
    assert columns.only.below is not None and columns.only.below.tolist() == [3, 50, 7]


def test_masks_and_types_of_examples_stay_and_the_rest_is_made() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    examples = {"input_ids": torch.tensor([[1, 5, 2, 0], [3, 4, 0, 0]]), "attention_mask": mask}
    examples["picture"] = 2 + torch.randn(2, 3, 9, 9)
    found = asked(Pair(), examples)
    assert found is not None
    batch = found.filled(lambda form: torch.zeros(5, *form.shape, dtype=form.dtype), 5)
    assert torch.equal(batch.kwargs["attention_mask"], mask[[0, 1, 0, 1, 0]])
    assert batch.kwargs["input_ids"].shape == (5, 4) and batch.kwargs["picture"].shape == (5, 3, 9, 9)
    numbers, picture = found.forms
    assert numbers.below is not None and numbers.below.item() == 30 and abs((picture.mean or 0) - 2) < 0.3


def test_a_recipe_tells_the_only_input() -> None:
    model = pooled(nn.Conv2d(3, 4, 3))
    found = asked(model, torch.zeros(1, 3, 50, 50), Wanted(shape=(3, 40, 44), mean=0.5, deviation=0.2))
    assert found is not None and found.only is not None
    assert (found.only.shape, found.only.mean, found.only.deviation) == ((3, 40, 44), 0.5, 0.2)
    assert asked(model, wanted=Wanted(shape=(4, 40, 44))) is None


def test_what_cannot_be_told_is_none() -> None:
    assert asked(Pair()) is None
    assert asked(Pair(), (torch.zeros(2, 4), torch.zeros(3, 4))) is None
