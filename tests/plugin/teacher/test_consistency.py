"""Views that a teacher takes for pictures of the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import lloydmax
import pytest
import torch
from lloydmax.data import Batch, unlabelled
from lloydmax.teacher.consistency import moved, views
from lloydmax.teacher.trial import trial
from torch import Tensor, nn

G = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=G)


COARSE = nn.functional.interpolate(drawn(48, 3, 3, 3), 24, mode="bilinear")


class Colours(nn.Module):
    """Which class follows from the mean colour: a mirror does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return 20 * self.head(x.mean((2, 3)))


class Sides(nn.Module):
    """Which class follows from what is left and right, as of letters."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return 20 * self.head(x[..., :12].mean((2, 3)) - x[..., 12:].mean((2, 3)))


class Places(nn.Module):
    """The same at every place of a picture."""

    def __init__(self, kernel: tuple[float, ...] = (1, 1, 1, 1, 1)) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 12, (3, 5), padding=(1, 2))
        with torch.no_grad():
            self.layer.weight.copy_(self.layer.weight.mean((2, 3), keepdim=True) * torch.tensor(kernel))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sigmoid()


def found(model: nn.Module, data: Tensor = COARSE) -> tuple[dict[str, float], dict[str, Any]]:
    torch.manual_seed(0)
    outputs = trial(model.eval(), unlabelled(data, model))
    return moved(model, outputs, Batch((data[:32],))), views(model, outputs, Batch((data[:32],)))


def test_what_a_mirror_does_not_change() -> None:
    far, options = found(Colours())
    assert far["flip"] < 1e-9 and options == {"augment": ["resized_crop", "flip"], "mixup": 0.2, "cutmix": 1.0}


def test_what_a_mirror_changes() -> None:
    far, options = found(Sides())
    assert far["flip"] > 1 and options["augment"] == ["resized_crop"]


def test_places_move_with_the_picture() -> None:
    far, options = found(Places())
    assert far["flip"] < 0.35 and options == {"augment": ["resized_crop", "flip"]}, "nothing is mixed"
    far, options = found(Places((-1, -1, 0, 1, 1)), COARSE + torch.linspace(0, 8, 24))
    assert far["flip"] > 0.35 and "flip" not in options.get("augment", []), "dark on the left is bright on the left"


@pytest.mark.filterwarnings("error")
def test_one_picture_tells_of_no_view() -> None:
    """There is no other to compare with: crops hold a part of the same, mirrors may hold another thing."""
    assert found(Colours())[1]["augment"] == ["resized_crop", "flip"]
    assert found(Colours(), COARSE[:1])[1]["augment"] == ["resized_crop"]


def test_nothing_but_pictures_has_views() -> None:
    net = nn.Linear(6, 4)
    outputs = trial(net, unlabelled(drawn(8, 6), net))
    assert views(net, outputs, Batch((drawn(8, 6),))) == {}


@pytest.mark.parametrize(("net", "flips"), [(Colours, True), (Sides, False)])
def test_recipes_hold_them(net: type[nn.Module], flips: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), net(), nn.Linear(10, 1024), nn.Linear(1024, 10)).eval()
    (step,) = (s for s in lloydmax.recipe_for(model, 8, COARSE).recover if s.step == "distill")
    assert ("flip" in step.options["augment"]) == flips


class Counted(Colours):
    """Keeps how many inputs it was given at once."""

    given: ClassVar[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(len(x))
        return super().forward(x)


def test_what_is_asked_in_parts_is_answered_as_at_once() -> None:
    model = Colours().eval()
    outputs = trial(model, unlabelled(COARSE, model))
    whole, parts = (moved(model, replace(outputs, at_most=most), Batch((COARSE[:30],))) for most in (None, 4))
    assert whole == pytest.approx(parts, rel=1e-4) and whole["resized_crop"] > 0


def test_a_recipe_takes_no_more_memory_than_a_run() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Counted(), nn.Linear(10, 1024), nn.Linear(1024, 10)).eval()
    Counted.given.clear()
    lloydmax.recipe_for(model, 8, COARSE)
    assert sum(Counted.given) > 96 and max(Counted.given) <= 4, Counted.given
