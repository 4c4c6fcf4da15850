"""The training of the steps that fit an int8 student to the teacher's logits (Goncharenko et al. 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from lloydmax.extend import LoopOptions, TrainingLoop
from pydantic import Field, PositiveInt
from torch import Tensor


class LogitsOptions(LoopOptions):
    """Options of every step that learns from the logits."""

    loss: Literal["rmse", "smooth_l1", "mse"] = Field(
        default="rmse",
        description="`rmse`: root of the mean over the batch of the summed squared differences (the book chapter); "
        "`smooth_l1`: mean over the batch of the sum of `sqrt(difference ** 2 + 1e-5)` (the code); `mse`.",
    )

    epochs: PositiveInt = Field(default=5, le=10**6, description="passes over the data.")

    batch_size: PositiveInt = Field(default=100, description="samples of one step.")


class LogitsTraining(TrainingLoop):
    """One run. A subclass says what learns, and how a step is taken."""

    resumable: ClassVar[bool] = False
    shared: ClassVar[bool] = False
    options: LogitsOptions

    def loss(self, found: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """The mean over the outputs of the distance that the options name."""
        pairs = zip(found, wanted, strict=True)
        return torch.stack([distance(ours, theirs, self.options.loss) for ours, theirs in pairs]).mean()


def distance(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    """The loss ``kind`` of :class:`LogitsOptions` between two outputs ``(N, ...)``; 0-dim."""
    difference = (student.float() - teacher.float()).flatten(1)
    if kind == "mse":
        return difference.square().mean()
    if kind == "smooth_l1":
        return (difference.square() + 1e-5).sqrt().sum(1).mean()
    return (difference.square().sum(1).mean() + 1e-12).sqrt()
