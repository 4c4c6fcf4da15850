"""Thresholds trained without labels: the recovery step ``train_thresholds`` (Goncharenko et al. 2019, "FAT").

Only the factors of the trained thresholds learn; the loss is taken between the logits of teacher and student.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lloydmax.data import random_order
from lloydmax.errors import RecoveryError
from lloydmax.hooks.hookspecs import hookimpl
from lloydmax.hooks.protocols import Recovery
from lloydmax.runtime.modes import device_of, evaluating, evaluation_mode
from lloydmax.student.thresholds import TrainedThreshold
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


class _Training(LogitsTraining):
    """Adam, or scaled SGD, on the factors; a state is the factors."""

    def __init__(self, options: TrainThresholds.Options, recovery: Recovery, thresholds: list[TrainedThreshold]):
        self.options = options
        self.thresholds = _calibrated(thresholds, options.calibration, recovery) if options.calibration else thresholds
        self.factors = [factor for threshold in self.thresholds for factor in threshold.factors()]
        self.scales = _gradient_scales(self.thresholds) if options.optimizer == "sgd" else []
        self.since_reset = 0
        self._reset()
        super().__init__("train_thresholds", options, recovery)

    def run(self) -> dict[str, Any]:
        """The loop; the best factors stay."""
        measured = super().run()
        measured["thresholds"] = sum(threshold.width.numel() for threshold in self.thresholds)
        measured["saturated"] = sum(threshold.saturated() for threshold in self.thresholds)
        return measured

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

    def state(self) -> list[Tensor]:
        """The factors."""
        return [factor.detach().clone() for factor in self.factors]

    def load(self, state: list[Tensor]) -> None:
        """Set the factors."""
        with torch.no_grad():
            for factor, kept in zip(self.factors, state, strict=True):
                factor.copy_(kept)

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


def _calibrated(thresholds: list[TrainedThreshold], samples: int, recovery: Recovery) -> list[TrainedThreshold]:
    """Observe the ranges of the float network anew; returns the thresholds that saw any values."""
    source, student = recovery.source(), recovery.student
    order = random_order(len(source), min(samples, len(source)), recovery.seed)
    enabled = [float(threshold.fake_quant_enabled[0]) for threshold in thresholds]
    for threshold in thresholds:
        threshold.forget()
        threshold.observer_enabled[0], threshold.fake_quant_enabled[0] = 1, 0
    with evaluating(student):
        for _, batch in source.batches(_CALIBRATION_BATCH, order):
            batch.to(device_of(student)).run(student)
    for threshold, was in zip(thresholds, enabled, strict=True):
        threshold.observer_enabled[0], threshold.fake_quant_enabled[0] = 0, int(was)
        if threshold.observed:
            threshold.calculate_qparams()
    return [threshold for threshold in thresholds if threshold.observed]


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


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """The step of this module."""
    return {"train_thresholds": TrainThresholds}
