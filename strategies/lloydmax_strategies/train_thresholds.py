"""Thresholds trained without labels: the recovery step ``train_thresholds`` (Goncharenko et al. 2019, "FAT").

Only the factors of the trained thresholds learn; the loss is taken between the logits of teacher and student.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lloydmax import RecoveryError, hookimpl
from lloydmax.extend import FakeQuantizers, Recovery, TrainedThreshold, evaluating, evaluation_mode
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from lloydmax_strategies.training.logits import LogitsOptions, LogitsTraining

_CALIBRATION_BATCH = 32
_PUBLISHED = {"optimizer": "adam", "lr": 1e-3, "schedule": "restarts", "project": False, "batch_size": 100, "epochs": 5}


class TrainThresholds:
    """For int8: trains nothing but the clipping thresholds (Goncharenko et al. 2019)."""

    needs_data = True

    class Options(LogitsOptions):
        """Options of `train_thresholds`: those of `LogitsOptions`, and more."""

        preset: Literal["default", "published"] = Field(
            default="default",
            description="`published` sets the optimizer, schedule, batch size and epochs of the paper's code wherever "
            "they are not given.",
        )

        calibration: NonNegativeInt = Field(
            default=100,
            description="inputs from which the ranges are observed anew first; 0: the ranges stay as they are.",
        )

        optimizer: Literal["adam", "sgd"] = Field(
            default="adam",
            description="`adam`, or `sgd` (momentum 0.9) with gradients divided by the root of values times levels of "
            'each threshold (Esser et al. 2020, "LSQ", section 2.2), which Adam has no use for.',
        )

        lr: PositiveFloat = Field(default=1e-2, description="peak learning rate of the factors.")

        schedule: Literal["cosine", "constant", "restarts"] = Field(
            default="cosine",
            description="`cosine` (to zero), `constant`, or `restarts`: "
            "`lr * exp(-1e-4 t) * |cos(pi s / (4 * restart))| + 1e-7` with `t` steps done and `s` since the state "
            "of the optimizer was last reset.",
        )

        restart: PositiveInt = Field(default=400, description="steps between the resets of `restarts`.")

        project: bool = Field(
            default=True,
            description="move factors back into their limits after every step. Without it one that has left them gets "
            "no gradient, so it never learns again, as published.",
        )

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
        found = FakeQuantizers(recovery.student).thresholds
        if not found:
            raise RecoveryError(
                "train_thresholds: the student has no trained thresholds: add an `activations:` section with "
                "`quantizer: uniform` rules, or prepare the model with threshold_qconfig_mapping"
            )
        found = [threshold for threshold in found if threshold.factors()]
        if not found:
            raise RecoveryError("train_thresholds: every threshold of the student is fixed, as in a loaded model")
        with evaluation_mode(recovery.teacher, recovery.student), _only_factors(recovery.student, found):
            return _Training(self.options, recovery, found).run()


class _Training(LogitsTraining):
    """Adam, or scaled SGD, on the factors."""

    options: TrainThresholds.Options

    def __init__(self, options: TrainThresholds.Options, recovery: Recovery, thresholds: list[TrainedThreshold]):
        self.options = options
        self.thresholds = _calibrated(thresholds, options.calibration, recovery) if options.calibration else thresholds
        self.factors = [factor for threshold in self.thresholds for factor in threshold.factors()]
        self.scales = _gradient_scales(self.thresholds) if options.optimizer == "sgd" else []
        self.since_reset = 0
        self._reset()
        super().__init__("train_thresholds", options, recovery)

    def trained(self) -> list[Any]:
        """The factors."""
        return self.factors

    def figures(self) -> dict[str, Any]:
        """How many thresholds there are, and how many of them reached a limit."""
        return super().figures() | {
            "thresholds": sum(threshold.width.numel() for threshold in self.thresholds),
            "saturated": sum(threshold.saturated() for threshold in self.thresholds),
        }

    def step(self, loss: Tensor) -> dict[str, float]:
        """One step of the optimizer, at the rate of the schedule."""
        if self.options.schedule == "restarts" and self.since_reset == self.options.restart:
            self._reset()
        rate = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for factor, scale in zip(self.factors, self.scales, strict=False):
            if factor.grad is not None:
                factor.grad.mul_(scale)
        self.optimizer.step()
        self.since_reset += 1
        if self.options.project:
            for threshold in self.thresholds:
                threshold.project()
        return {"lr": rate}

    def _rate(self) -> float:
        options, step = self.options, self.done
        if options.schedule == "constant":
            return options.lr
        if options.schedule == "cosine":
            return options.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.total)))
        wave = abs(math.cos(math.pi * self.since_reset / (4 * options.restart)))
        return options.lr * math.exp(-1e-4 * step) * wave + 1e-7

    def _reset(self) -> None:
        self.since_reset = 0
        if self.options.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(self.factors, lr=self.options.lr, momentum=0.9)
        else:
            self.optimizer = torch.optim.Adam(self.factors, lr=self.options.lr)


def _calibrated(thresholds: list[TrainedThreshold], samples: int, recovery: Recovery) -> list[TrainedThreshold]:
    """Observe the ranges of the float network anew; returns the thresholds that saw any values."""
    source, student = recovery.source(), recovery.student
    order = source.draw(samples, recovery.seed)
    enabled = [float(threshold.fake_quant_enabled[0]) for threshold in thresholds]
    for threshold in thresholds:
        threshold.forget()
        threshold.observer_enabled[0], threshold.fake_quant_enabled[0] = 1, 0
    with evaluating(student):
        for _ in source.through(student, _CALIBRATION_BATCH, order, channels_last=False):
            pass
    for threshold, was in zip(thresholds, enabled, strict=True):
        threshold.observer_enabled[0], threshold.fake_quant_enabled[0] = 0, int(was)
        if threshold.observed:
            threshold.calculate_qparams()
    return [threshold for threshold in thresholds if threshold.observed]


@contextmanager
def _only_factors(student: nn.Module, thresholds: list[TrainedThreshold]) -> Iterator[None]:
    """Everything frozen but the factors, every observer off; gradients and the others' observers are restored."""
    wanted = [(parameter, parameter.requires_grad) for parameter in student.parameters()]
    observers = FakeQuantizers(student).observers()
    others = [(m, int(m.observer_enabled[0])) for m in observers if m not in thresholds]
    try:
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        for threshold in thresholds:
            for factor in threshold.factors():
                factor.requires_grad_(True)
        for module, _ in others:
            module.observer_enabled[0] = 0
        yield
    finally:
        for parameter, needed in wanted:
            parameter.requires_grad_(needed)
            parameter.grad = None
        for module, enabled in others:
            module.observer_enabled[0] = enabled


def _gradient_scales(thresholds: list[TrainedThreshold]) -> list[float]:
    """``1 / sqrt(values * levels)`` of each factor."""
    return [1 / math.sqrt(t.values * t.quant_max) for t in thresholds for _ in t.factors()]


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """The step of this module."""
    return {"train_thresholds": TrainThresholds}
