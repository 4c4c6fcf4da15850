"""Multipliers trained without labels: every weight and bias of the int8 layers moves by up to a quarter.

The second method of Goncharenko et al., "FAT: fast adjustable threshold for uniform neural network quantization",
ICANN 2019: after rescaling, thresholds stay and pointwise multipliers in [0.75, 1.25] learn from the teacher's logits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from lloydmax import RecoveryError, hookimpl
from lloydmax.extend import FakeQuantizers, Recovery, evaluating, evaluation_mode
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from lloydmax_strategies.training.logits import LogitsOptions, LogitsTraining

_CALIBRATION = 100
_CALIBRATION_BATCH = 32


class TrainMultipliers:
    """For int8: trains a factor for each weight and bias (Goncharenko et al. 2019, second method)."""

    needs_data = True

    class Options(LogitsOptions):
        """Options of `train_multipliers`: those of `LogitsOptions`, and two more."""

        range: float = Field(
            default=0.25, gt=0, lt=1, description="how far a multiplier may be from 1; beyond it has no gradient."
        )

        lr: PositiveFloat = Field(
            default=1e-3, description="peak learning rate of Adam; it falls to zero along a cosine."
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Train the multipliers and multiply them into the weights; returns what was measured.

        Observers are off afterwards, so that conversion keeps the thresholds that the weights were trained with.

        Raises:
            RecoveryError: the student has no weights on an int8 grid.
        """
        recovery.source()
        names = FakeQuantizers(recovery.student).int8_parameters
        if not names:
            raise RecoveryError(
                "train_multipliers needs int8 layers, and the student has none: give it `quantizer: uniform` rules "
                "and an `activations:` section, or a model from prepare_qat_fx"
            )
        with evaluation_mode(recovery.teacher, recovery.student):
            return _Training(self.options, recovery, names).run()


class _Training(LogitsTraining):
    """Adam on one multiplier for every value; a state is the products."""

    options: TrainMultipliers.Options

    def __init__(self, options: TrainMultipliers.Options, recovery: Recovery, names: list[str]) -> None:
        _settle(recovery)
        self.options = options
        self.fixed = {name: recovery.student.get_parameter(name).detach() for name in names}
        self.multipliers = {name: torch.ones_like(value, requires_grad=True) for name, value in self.fixed.items()}
        self.optimizer = torch.optim.Adam(self.multipliers.values(), lr=options.lr)
        self.before = [value.clone() for value in self.fixed.values()]
        student = _Multiplied(recovery.student, self._products)
        super().__init__("train_multipliers", options, recovery, student=student)

    def trained(self) -> list[Any]:
        """The multipliers."""
        return list(self.multipliers.values())

    def figures(self) -> dict[str, Any]:
        """How many multipliers there are, and how far the products have moved, as a share of the magnitudes."""
        moved = sum(float((a - b).abs().sum()) for a, b in zip(self.before, self.fixed.values(), strict=True))
        return super().figures() | {
            "multipliers": sum(value.numel() for value in self.before),
            "moved": moved / max(sum(float(value.abs().sum()) for value in self.before), 1e-30),
        }

    def step(self, loss: Tensor) -> dict[str, float]:
        """Only the multipliers get gradients, whatever else of the student asks for one."""
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for multiplier, gradient in zip(self.parameters, gradients, strict=True):
            multiplier.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, self.done / self.total)))
        self.optimizer.step()
        return {}

    def state(self) -> list[Tensor]:
        """The products."""
        return [product.detach() for product in self._products().values()]

    def load(self, state: list[Tensor]) -> None:
        """Write products into the student."""
        with torch.no_grad():
            for value, product in zip(self.fixed.values(), state, strict=True):
                value.copy_(product)

    def _products(self) -> dict[str, Tensor]:
        low, high = 1 - self.options.range, 1 + self.options.range
        return {name: value * self.multipliers[name].clamp(low, high) for name, value in self.fixed.items()}


class _Multiplied(nn.Module):
    """The student run with other values in place of some parameters; the student itself is not touched."""

    def __init__(self, student: nn.Module, products: Any) -> None:
        super().__init__()
        self.student, self.products = student, products
        self.train(student.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self.student, self.products(), args, kwargs)


def _settle(recovery: Recovery) -> None:
    """Let observers that are still on see some inputs, and turn all of them off: the thresholds stay from now on."""
    student, source = recovery.student, recovery.source()
    found = FakeQuantizers(student).observers(codebooks=False)
    if any(int(observer.observer_enabled[0]) for observer in found):
        order = source.draw(_CALIBRATION, recovery.seed)
        with evaluating(student):
            for _ in source.through(student, _CALIBRATION_BATCH, order, channels_last=False):
                pass
    for observer in found:
        observer.observer_enabled[0] = 0


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``train_multipliers``."""
    return {"train_multipliers": TrainMultipliers}
