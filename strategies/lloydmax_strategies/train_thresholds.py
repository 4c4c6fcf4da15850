"""Thresholds trained without labels: the recovery step ``train_thresholds`` (Goncharenko et al. 2019, "FAT").

Only the factors of the trained thresholds learn; the loss is taken between the logits of teacher and student.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lloydmax.data import random_order, split
from lloydmax.errors import RecoveryError
from lloydmax.hookspecs import hookimpl
from lloydmax.outputs import Agreement, TeacherOutputs, Yardstick, output_tensors
from lloydmax.strategy import Recovery, device_of, evaluating, evaluation_mode
from lloydmax.thresholds import TrainedThreshold
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

_HELD_OUT_MOST = 1000
_CALIBRATION_BATCH = 32
_PUBLISHED = {"optimizer": "adam", "lr": 1e-3, "schedule": "restarts", "project": False, "batch_size": 100, "epochs": 5}


class TrainThresholds:
    """Recovery step ``train_thresholds``."""

    needs_data = True

    class Options(BaseModel):
        """Options of ``train_thresholds``.

        Attributes:
            preset: ``published`` sets the optimizer, schedule, batch size and epochs of the paper's code wherever
                they are not given.
            calibration: inputs from which the ranges are observed anew first; 0: the ranges stay as they are.
            loss: ``rmse``: root of the mean over the batch of the summed squared differences (the book chapter);
                ``smooth_l1``: mean over the batch of the sum of ``sqrt(difference ** 2 + 1e-5)`` (the code);
                ``mse``.
            output: key, attribute or position of the output to mimic; default: ``logits``, or every floating one.
            epochs: passes over the data.
            steps: optimizer steps, instead of ``epochs``.
            batch_size: samples of one step.
            optimizer: ``adam``, or ``sgd`` (momentum 0.9) with gradients divided by the root of values times
                levels of each threshold (Esser et al. 2020, "LSQ", section 2.2), which Adam has no use for.
            lr: peak learning rate of the factors.
            schedule: ``cosine`` (to zero), ``constant``, or ``restarts``:
                ``lr * exp(-1e-4 t) * |cos(pi s / (4 * restart))| + 1e-7`` with ``t`` steps done and ``s`` since
                the state of the optimizer was last reset.
            restart: steps between the resets of ``restarts``.
            project: move factors back into their limits after every step. Without it one that has left them gets
                no gradient, so it never learns again, as published.
            samples: use at most so many inputs, drawn at random.
            held_out: share of the inputs (at most 1,000) kept aside to choose the best state: that with the least
                squared difference from the outputs of the teacher.
        """

        model_config = ConfigDict(extra="forbid")

        preset: Literal["default", "published"] = "default"
        calibration: NonNegativeInt = 100
        loss: Literal["rmse", "smooth_l1", "mse"] = "rmse"
        output: str | int | None = None
        epochs: PositiveInt = 5
        steps: PositiveInt | None = None
        batch_size: PositiveInt = 100
        optimizer: Literal["adam", "sgd"] = "adam"
        lr: PositiveFloat = 1e-2
        schedule: Literal["cosine", "constant", "restarts"] = "cosine"
        restart: PositiveInt = 400
        project: bool = True
        samples: PositiveInt | None = None
        held_out: float = Field(default=0.05, ge=0, le=0.5)

        @model_validator(mode="before")
        @classmethod
        def _preset(cls, given: Any) -> Any:
            return _PUBLISHED | given if isinstance(given, dict) and given.get("preset") == "published" else given

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Train the factors of the student's thresholds; returns what was measured.

        Raises:
            RecoveryError: the student has no trained thresholds, or all of them are fixed.
        """
        recovery.source()
        thresholds = [m for m in recovery.student.modules() if isinstance(m, TrainedThreshold)]
        if not thresholds:
            raise RecoveryError(
                "train_thresholds: the student has no trained thresholds: add an `activations:` section with "
                "`quantizer: uniform` rules, or prepare the model with threshold_qconfig_mapping"
            )
        thresholds = [threshold for threshold in thresholds if threshold.factors()]
        if not thresholds:
            raise RecoveryError("train_thresholds: every threshold of the student is fixed, as in a loaded model")
        with evaluation_mode(recovery.teacher, recovery.student), _only_factors(recovery.student, thresholds):
            return _Training(self.options, recovery, thresholds).run()


class _Training:
    """One run: what a step needs, and the loop."""

    def __init__(self, options: TrainThresholds.Options, recovery: Recovery, thresholds: list[TrainedThreshold]):
        self.options, self.recovery, self.thresholds = options, recovery, thresholds
        self.source, self.device = recovery.source(), device_of(recovery.student)
        if options.calibration:
            self._calibrate(min(options.calibration, len(self.source)))
        self.factors = [factor for threshold in thresholds for factor in threshold.factors()]
        self.generator = recovery.generator()
        count = min(len(self.source), options.samples or len(self.source))
        self.order, held_out = split(self.source, min(_HELD_OUT_MOST, int(options.held_out * count)), recovery.seed)
        self.order = self.order[: max(count - len(held_out), 1)]
        self.drop_last = len(self.order) > options.batch_size
        batches = len(self.order) // options.batch_size if self.drop_last else 1
        self.total = options.steps or options.epochs * batches
        self.targets = TeacherOutputs.keep(
            recovery.teacher, self.source, self.order, options.output, recovery.workdir, recovery.cache
        )
        self.yardstick: Yardstick | None = None
        if len(held_out):
            self.yardstick = Yardstick(
                recovery.teacher, self.source, held_out, key=options.output, cache=recovery.cache
            )
        self.scales = _gradient_scales(thresholds) if options.optimizer == "sgd" else None
        self.done = self.since_reset = 0
        self._reset()
        self.best = [factor.detach().clone() for factor in self.factors]

    def run(self) -> dict[str, Any]:
        """The loop over epochs; the best state is kept."""
        first_loss, loss, stopped = None, math.nan, "all steps done"
        before = best = self._measure()
        while self.done < self.total:
            for loss in self._epoch():
                first_loss = loss if first_loss is None else first_loss
            if not math.isfinite(loss):
                stopped = f"the loss became {loss} at step {self.done}; the best state before was restored"
                warnings.warn(f"train_thresholds: {stopped}; try a smaller lr", stacklevel=2)
                break
            found = self._measure()
            if found is None or best is None or found.mse < best.mse:
                best = found
                self.best = [factor.detach().clone() for factor in self.factors]
        with torch.no_grad():
            for factor, kept in zip(self.factors, self.best, strict=True):
                factor.copy_(kept)
        if self.targets is not None and self.recovery.cache is None:
            self.targets.close()
        return {
            "steps": self.done,
            "samples": len(self.order),
            "thresholds": sum(threshold.width.numel() for threshold in self.thresholds),
            "saturated": sum(threshold.saturated() for threshold in self.thresholds),
            "loss_before": first_loss,
            "loss": loss if math.isfinite(loss) else None,
            "held_out_samples": 0 if before is None else before.samples,
            "mse_before": before and before.mse,
            "mse": best and best.mse,
            "agreement_before": before and before.top1,
            "agreement": best and best.top1,
            "stopped": stopped,
        }

    def _calibrate(self, samples: int) -> None:
        """Observe the ranges of the float network anew."""
        order = random_order(len(self.source), samples, self.recovery.seed)
        enabled = [float(threshold.fake_quant_enabled[0]) for threshold in self.thresholds]
        for threshold in self.thresholds:
            threshold.forget()
            threshold.observer_enabled[0], threshold.fake_quant_enabled[0] = 1, 0
        with evaluating(self.recovery.student):
            for _, batch in self.source.batches(_CALIBRATION_BATCH, order):
                batch.to(self.device).run(self.recovery.student)
        for threshold, was in zip(self.thresholds, enabled, strict=True):
            threshold.observer_enabled[0], threshold.fake_quant_enabled[0] = 0, int(was)
            if threshold.observed:
                threshold.calculate_qparams()
        self.thresholds = [threshold for threshold in self.thresholds if threshold.observed]

    def _epoch(self) -> Iterator[float]:
        """Train for an epoch; yields the smoothed loss after every step."""
        smooth = math.nan
        order = self.order[torch.randperm(len(self.order), generator=self.generator)]
        for indices, batch in self.source.batches(self.options.batch_size, order, drop_last=self.drop_last):
            inputs = batch.to(self.device, channels_last=True)
            if self.targets is not None:
                wanted = self.targets.rows(indices, self.device)
            else:
                with torch.no_grad():
                    wanted = output_tensors(inputs.run(self.recovery.teacher), self.options.output)
            found = output_tensors(inputs.run(self.recovery.student), self.options.output)
            losses = [_loss(ours, theirs, self.options.loss) for ours, theirs in zip(found, wanted, strict=True)]
            loss = torch.stack(losses).mean()
            value = loss.item()
            self.done += 1
            if not math.isfinite(value):
                yield value
                return
            self._step(loss)
            smooth = value if math.isnan(smooth) else 0.95 * smooth + 0.05 * value
            figures = {"loss": smooth, "lr": self.optimizer.param_groups[0]["lr"]}
            self.recovery.events.step("train_thresholds", self.done, self.total, figures)
            yield smooth
            if self.done >= self.total:
                return

    def _step(self, loss: Tensor) -> None:
        if self.options.schedule == "restarts" and self.since_reset == self.options.restart:
            self._reset()
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for factor, scale in zip(self.factors, self.scales or [], strict=False):
            if factor.grad is not None:
                factor.grad.mul_(scale)
        self.optimizer.step()
        self.since_reset += 1
        if self.options.project:
            for threshold in self.thresholds:
                threshold.project()

    def _rate(self) -> float:
        options, step = self.options, self.done - 1
        if options.schedule == "constant":
            return options.lr
        if options.schedule == "cosine":
            return options.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.total)))
        wave = abs(math.cos(math.pi * self.since_reset / (4 * options.restart)))
        return options.lr * math.exp(-1e-4 * step) * wave + 1e-7

    def _reset(self) -> None:
        self.since_reset = 0
        if self.options.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(self.factors, lr=self.options.lr, momentum=0.9)
        else:
            self.optimizer = torch.optim.Adam(self.factors, lr=self.options.lr)

    def _measure(self) -> Agreement | None:
        if self.yardstick is None:
            return None
        found = self.yardstick.measure(self.recovery.student)
        if found.top1 is not None:
            self.recovery.events.step("train_thresholds", self.done, self.total, {"agreement": found.top1})
        return found


@contextmanager
def _only_factors(student: nn.Module, thresholds: list[TrainedThreshold]) -> Iterator[None]:
    """Everything frozen but the factors, every observer off; gradients and the others' observers are restored."""
    wanted = [(parameter, parameter.requires_grad) for parameter in student.parameters()]
    others: list[Any] = [m for m in student.modules() if hasattr(m, "observer_enabled") and m not in thresholds]
    observers = [(m, int(m.observer_enabled[0])) for m in others]
    try:
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        for threshold in thresholds:
            for factor in threshold.factors():
                factor.requires_grad_(True)
        for module, _ in observers:
            module.observer_enabled[0] = 0
        yield
    finally:
        for parameter, needed in wanted:
            parameter.requires_grad_(needed)
            parameter.grad = None
        for module, enabled in observers:
            module.observer_enabled[0] = enabled


def _gradient_scales(thresholds: list[TrainedThreshold]) -> list[float]:
    """``1 / sqrt(values * levels)`` of each factor."""
    return [1 / math.sqrt(t.values * t.quant_max) for t in thresholds for _ in t.factors()]


def _loss(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    difference = (student.float() - teacher.float()).flatten(1)
    if kind == "mse":
        return difference.square().mean()
    if kind == "smooth_l1":
        return (difference.square() + 1e-5).sqrt().sum(1).mean()
    return (difference.square().sum(1).mean() + 1e-12).sqrt()


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """The step of this module."""
    return {"train_thresholds": TrainThresholds}
