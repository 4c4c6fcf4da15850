"""The training loop of the steps that fit an int8 student to the teacher's logits (Goncharenko et al. 2019)."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import torch
from lloydmax.data import split
from lloydmax.hooks.protocols import Recovery
from lloydmax.runtime.modes import device_of
from lloydmax.teacher.agreement import Agreement, Yardstick
from lloydmax.teacher.kept import TeacherOutputs
from lloydmax.teacher.outputs import output_tensors
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

_HELD_OUT_MOST = 1000


class LogitsOptions(BaseModel):
    """Options of every step that learns from the logits."""

    model_config = ConfigDict(extra="forbid")

    loss: Literal["rmse", "smooth_l1", "mse"] = Field(
        default="rmse",
        description="`rmse`: root of the mean over the batch of the summed squared differences (the book chapter); "
        "`smooth_l1`: mean over the batch of the sum of `sqrt(difference ** 2 + 1e-5)` (the code); `mse`.",
    )

    output: str | int | None = Field(
        default=None,
        description="key, attribute or position of the output to mimic; default: `logits`, or every floating one.",
    )

    epochs: PositiveInt = Field(default=5, description="passes over the data.")

    steps: PositiveInt | None = Field(default=None, description="optimizer steps, instead of `epochs`.")

    batch_size: PositiveInt = Field(default=100, description="samples of one step.")

    samples: PositiveInt | None = Field(default=None, description="use at most so many inputs, drawn at random.")

    held_out: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        description="share of the inputs (at most 1,000) kept aside to choose the best state.",
    )


class LogitsTraining(ABC):
    """One run. A subclass says what a step changes (:meth:`step`) and what a state is (:meth:`state`, :meth:`load`).

    Args:
        name: of the recovery step, for events and messages.
        options: what to do.
        recovery: what to do it on.
        student: what runs in the student's place; ``None``: itself.
    """

    def __init__(self, name: str, options: LogitsOptions, recovery: Recovery, student: nn.Module | None = None) -> None:
        self.name, self.settings, self.recovery = name, options, recovery
        self.student = recovery.student if student is None else student
        self.source, self.device = recovery.source(), device_of(recovery.student)
        self.generator = recovery.generator()
        count = min(len(self.source), options.samples or len(self.source))
        self.order, held_out = split(self.source, min(_HELD_OUT_MOST, int(options.held_out * count)), recovery.seed)
        self.order = self.order[: max(count - len(held_out), 1)]
        self.drop_last = len(self.order) > options.batch_size
        batches = len(self.order) // options.batch_size if self.drop_last else 1
        self.done, self.total = 0, options.steps or options.epochs * batches
        shared: dict[str, Any] = {"key": options.output, "cache": recovery.cache}
        self.targets = TeacherOutputs.keep(
            recovery.teacher, self.source, self.order, workdir=recovery.workdir, events=recovery.events, **shared
        )
        self.yardstick = Yardstick(recovery.teacher, self.source, held_out, **shared) if len(held_out) else None

    @abstractmethod
    def step(self, loss: Tensor) -> dict[str, float]:
        """One step of the optimizer on this loss; returns what is told beside it."""

    @abstractmethod
    def state(self) -> list[Tensor]:
        """A copy of what training changes."""

    @abstractmethod
    def load(self, state: list[Tensor]) -> None:
        """Go back to a state."""

    def run(self) -> dict[str, Any]:
        """The loop over epochs; the state with the least held-out error is loaded at the end."""
        first_loss, loss, stopped = None, math.nan, "all steps done"
        before = best = self._measure()
        kept = self.state()
        while self.done < self.total:
            try:
                for loss in self._epoch():
                    first_loss = loss if first_loss is None else first_loss
            except KeyboardInterrupt:
                self.load(kept)
                raise
            if not math.isfinite(loss):
                stopped = f"the loss became {loss} at step {self.done}; the best state before was restored"
                warnings.warn(f"{self.name}: {stopped}; try a smaller lr", stacklevel=2)
                break
            found = self._measure()
            if found is None or best is None or found.mse < best.mse:
                best, kept = found, self.state()
        self.load(kept)
        if self.targets is not None and self.recovery.cache is None:
            self.targets.close()
        return {
            "steps": self.done,
            "samples": len(self.order),
            "loss_before": first_loss,
            "loss": loss if math.isfinite(loss) else None,
            "held_out_samples": 0 if before is None else before.samples,
            "mse_before": before and before.mse,
            "mse": best and best.mse,
            "agreement_before": before and before.top1,
            "agreement": best and best.top1,
            "stopped": stopped,
        }

    def _epoch(self) -> Iterator[float]:
        """Train for an epoch; yields the smoothed loss after every step."""
        smooth, options = math.nan, self.settings
        order = self.order[torch.randperm(len(self.order), generator=self.generator)]
        for indices, batch in self.source.batches(options.batch_size, order, drop_last=self.drop_last):
            inputs = batch.to(self.device, channels_last=True)
            if self.targets is not None:
                wanted = self.targets.rows(indices, self.device)
            else:
                with torch.no_grad():
                    wanted = output_tensors(inputs.run(self.recovery.teacher), options.output)
            found = output_tensors(inputs.run(self.student), options.output)
            pairs = zip(found, wanted, strict=True)
            loss = torch.stack([distance(ours, theirs, options.loss) for ours, theirs in pairs]).mean()
            value = loss.item()
            self.done += 1
            if not math.isfinite(value):
                yield value
                return
            told = self.step(loss)
            smooth = value if math.isnan(smooth) else 0.95 * smooth + 0.05 * value
            self.recovery.events.step(self.name, self.done, self.total, {"loss": smooth, **told})
            yield smooth
            if self.done >= self.total:
                return

    def _measure(self) -> Agreement | None:
        if self.yardstick is None:
            return None
        found = self.yardstick.measure(self.student)
        if found.top1 is not None:
            self.recovery.events.step(self.name, self.done, self.total, {"agreement": found.top1})
        return found


def distance(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    """The loss ``kind`` of :class:`LogitsOptions` between two outputs ``(N, ...)``; 0-dim."""
    difference = (student.float() - teacher.float()).flatten(1)
    if kind == "mse":
        return difference.square().mean()
    if kind == "smooth_l1":
        return (difference.square() + 1e-5).sqrt().sum(1).mean()
    return (difference.square().sum(1).mean() + 1e-12).sqrt()
