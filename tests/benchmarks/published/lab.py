"""What every experiment needs: teachers, pictures, accuracy, and how much to do."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lloydmax
import torch
from lloydmax import demo
from lloydmax.demo.network import DemoResNet
from lloydmax.fitting.fit import fit
from lloydmax.recovery.preparation import prepare
from lloydmax.runtime.modes import evaluating
from torch import Tensor, nn

from published import teachers
from published.pictures import draw, pictures

BATCH = 64


@dataclass(frozen=True)
class Scale:
    """How much to do.

    Attributes:
        epochs: of retraining, by teacher.
        images: of one epoch, by teacher.
        seeds: of the cells that are repeated.
        test_pictures: how many of the 10,000 to measure the accuracy on.
    """

    epochs: dict[str, int]
    images: dict[str, int]
    seeds: int = 3
    test_pictures: int = 10_000


SCALES = {
    "smoke": Scale({"vgg16": 1}, {"vgg16": 128}, 2, 256),
    "quick": Scale({"vgg16": 4, "resnet50": 3}, {"vgg16": 5000, "resnet50": 2500}),
    "full": Scale({"vgg16": 20, "resnet50": 20}, {"vgg16": 10000, "resnet50": 10000}, 5),
}


DEMO = "demo_resnet"
"""The demo's network (14 convolutions, ResNet-20's cost), which comes trained on the same pictures."""


class _DemoTeacher(DemoResNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, 2:-2, 2:-2])


@dataclass(frozen=True)
class Lab:
    """One place for everything that is loaded once.

    Attributes:
        folder: holds ``teachers``; results go there, too.
        fashion: the folder of Fashion-MNIST.
        scale: how much to do.
    """

    folder: Path
    fashion: Path
    scale: Scale

    def epochs(self, teacher: str) -> int:
        """Passes of retraining."""
        return self.scale.epochs.get(teacher, self.scale.epochs["vgg16"])

    def images(self, teacher: str) -> int:
        """Pictures of one pass of retraining."""
        return self.scale.images.get(teacher, self.scale.images["vgg16"])

    def ready(self, name: str) -> bool:
        """Whether a teacher is trained."""
        return name == DEMO or (self.folder / "teachers" / f"{name}.safetensors").exists()

    def teacher(self, name: str) -> nn.Module:
        """A trained teacher, in evaluation mode, in the memory format that convolutions prefer."""
        return _teacher(name, self.folder)

    def unlabelled(self, domain: str, count: int, seed: int) -> Tensor:
        """Pictures of a domain as a model takes them, float32 ``(count, 1, 32, 32)``."""
        found = pictures(domain, self.fashion)
        return teachers.normalized(found[draw(count, len(found), seed)])

    def labelled(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """The pictures of ``unlabelled("fashion", count, seed)`` with their labels."""
        found, labels = _fashion("train", self.fashion)
        chosen = draw(count, len(found), seed)
        return teachers.normalized(found[chosen]), labels[chosen]

    def accuracy(self, model: nn.Module) -> float:
        """Top-1 accuracy on the test pictures, 0 to 1."""
        found, labels = (part[: self.scale.test_pictures] for part in _fashion("t10k", self.fashion))
        with evaluating(model):
            return teachers.accuracy(model, found, labels, BATCH)

    def student(self, name: str, recipe: dict[str, Any]) -> tuple[nn.Module, lloydmax.Plan]:
        """A teacher's compressed copy before any recovery, and its plan."""
        teacher = self.teacher(name)
        plan, student = lloydmax.plan(teacher, recipe), copy.deepcopy(teacher)
        prepare(student, plan, fit(teacher, plan))
        return student, plan


@functools.cache
def _teacher(name: str, folder: Path) -> nn.Module:
    model = teachers.teacher(name, folder) if name != DEMO else _DemoTeacher()
    if name == DEMO:
        model.load_state_dict(demo.network().state_dict())
    return model.eval().to(memory_format=torch.channels_last)


@functools.cache
def _fashion(part: str, folder: Path) -> tuple[Tensor, Tensor]:
    return teachers.fashion(part, folder)
