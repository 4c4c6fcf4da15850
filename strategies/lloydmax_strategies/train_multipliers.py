"""Multipliers trained without labels: every weight and bias of the int8 layers moves by up to a quarter.

The second method of Goncharenko et al., "FAT: fast adjustable threshold for uniform neural network quantization",
ICANN 2019: after rescaling, thresholds stay and pointwise multipliers in [0.75, 1.25] learn from the teacher's logits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
from lloydmax.data import random_order, split
from lloydmax.errors import RecoveryError
from lloydmax.hookspecs import hookimpl
from lloydmax.integrations.fake_quantize import CodebookWeightFakeQuantize
from lloydmax.outputs import Agreement, TeacherOutputs, Yardstick, output_tensors
from lloydmax.strategy import Recovery, device_of, evaluating, evaluation_mode
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

_HELD_OUT_MOST = 1000
_CALIBRATION = 100
_CALIBRATION_BATCH = 32


class TrainMultipliers:
    """Recovery step ``train_multipliers``."""

    needs_data = True

    class Options(BaseModel):
        """Options of ``train_multipliers``.

        Attributes:
            range: how far a multiplier may be from 1; beyond it has no gradient.
            loss: ``rmse``: root of the mean over the batch of the summed squared differences; ``smooth_l1``: mean
                over the batch of the sum of ``sqrt(difference ** 2 + 1e-5)``; ``mse``.
            output: key, attribute or position of the output to mimic; default: ``logits``, or every floating one.
            epochs: passes over the data.
            steps: optimizer steps, instead of ``epochs``.
            batch_size: samples of one step.
            lr: peak learning rate of Adam; it falls to zero along a cosine.
            samples: use at most so many inputs, drawn at random.
            held_out: share of the inputs (at most 1,000) kept aside to choose the best state.
        """

        model_config = ConfigDict(extra="forbid")

        range: float = Field(default=0.25, gt=0, lt=1)
        loss: Literal["rmse", "smooth_l1", "mse"] = "rmse"
        output: str | int | None = None
        epochs: PositiveInt = 5
        steps: PositiveInt | None = None
        batch_size: PositiveInt = 100
        lr: PositiveFloat = 1e-3
        samples: PositiveInt | None = None
        held_out: float = Field(default=0.05, ge=0, le=0.5)

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Train the multipliers and multiply them into the weights; returns what was measured.

        Observers are off afterwards, so that conversion keeps the thresholds that the weights were trained with.

        Raises:
            RecoveryError: the student has no weights on an int8 grid.
        """
        recovery.source()
        names = _multiplied(recovery.student)
        if not names:
            raise RecoveryError(
                "train_multipliers needs int8 layers, and the student has none: give it `quantizer: uniform` rules "
                "and an `activations:` section, or a model from prepare_qat_fx"
            )
        with evaluation_mode(recovery.teacher, recovery.student):
            return _Training(self.options, recovery, names).run()


class _Training:
    """One run: what a step needs, and the loop."""

    def __init__(self, options: TrainMultipliers.Options, recovery: Recovery, names: list[str]) -> None:
        self.options, self.recovery, self.source = options, recovery, recovery.source()
        self.device = device_of(recovery.student)
        _settle(recovery)
        self.fixed = {name: recovery.student.get_parameter(name).detach() for name in names}
        self.multipliers = {name: torch.ones_like(value, requires_grad=True) for name, value in self.fixed.items()}
        self.student = _Multiplied(recovery.student, self._products)
        self.optimizer = torch.optim.Adam(self.multipliers.values(), lr=options.lr)
        self.generator = recovery.generator()
        count = min(len(self.source), options.samples or len(self.source))
        self.order, held_out = split(self.source, min(_HELD_OUT_MOST, int(options.held_out * count)), recovery.seed)
        self.order = self.order[: max(count - len(held_out), 1)]
        self.drop_last = len(self.order) > options.batch_size
        batches = len(self.order) // options.batch_size if self.drop_last else 1
        self.done, self.total = 0, options.steps or options.epochs * batches
        shared: dict[str, Any] = {"key": options.output, "cache": recovery.cache}
        self.targets = TeacherOutputs.keep(
            recovery.teacher, self.source, self.order, workdir=recovery.workdir, **shared
        )
        self.yardstick = Yardstick(recovery.teacher, self.source, held_out, **shared) if len(held_out) else None

    def run(self) -> dict[str, Any]:
        """The loop over epochs; the products of the best state are what the student keeps."""
        first_loss, loss, stopped = None, math.nan, "all steps done"
        before = best = self._measure()
        kept = self._kept()
        while self.done < self.total:
            for loss in self._epoch():
                first_loss = loss if first_loss is None else first_loss
            if not math.isfinite(loss):
                stopped = f"the loss became {loss} at step {self.done}; the best state before was restored"
                warnings.warn(f"train_multipliers: {stopped}; try a smaller lr", stacklevel=2)
                break
            found = self._measure()
            if found is None or best is None or found.mse < best.mse:
                best, kept = found, self._kept()
        moved = sum(float((kept[name] - value).abs().sum()) for name, value in self.fixed.items())
        with torch.no_grad():
            for name, value in self.fixed.items():
                value.copy_(kept[name])
        if self.targets is not None and self.recovery.cache is None:
            self.targets.close()
        return {
            "steps": self.done,
            "samples": len(self.order),
            "multipliers": sum(value.numel() for value in self.fixed.values()),
            "moved": moved / max(sum(float(value.abs().sum()) for value in self.fixed.values()), 1e-30),
            "loss_before": first_loss,
            "loss": loss if math.isfinite(loss) else None,
            "held_out_samples": 0 if before is None else before.samples,
            "mse_before": before and before.mse,
            "mse": best and best.mse,
            "agreement_before": before and before.top1,
            "agreement": best and best.top1,
            "stopped": stopped,
        }

    def _products(self) -> dict[str, Tensor]:
        low, high = 1 - self.options.range, 1 + self.options.range
        return {name: value * self.multipliers[name].clamp(low, high) for name, value in self.fixed.items()}

    def _kept(self) -> dict[str, Tensor]:
        return {name: product.detach() for name, product in self._products().items()}

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
            found = output_tensors(inputs.run(self.student), self.options.output)
            losses = [_loss(ours, theirs, self.options.loss) for ours, theirs in zip(found, wanted, strict=True)]
            loss = torch.stack(losses).mean()
            value = loss.item()
            self.done += 1
            if not math.isfinite(value):
                yield value
                return
            self._step(loss)
            smooth = value if math.isnan(smooth) else 0.95 * smooth + 0.05 * value
            self.recovery.events.step("train_multipliers", self.done, self.total, {"loss": smooth})
            yield smooth
            if self.done >= self.total:
                return

    def _step(self, loss: Tensor) -> None:
        """Only the multipliers get gradients, whatever else of the student asks for one."""
        multipliers = list(self.multipliers.values())
        for multiplier, gradient in zip(
            multipliers, torch.autograd.grad(loss, multipliers, allow_unused=True), strict=True
        ):
            multiplier.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, (self.done - 1) / self.total)))
        self.optimizer.step()

    def _measure(self) -> Agreement | None:
        if self.yardstick is None:
            return None
        found = self.yardstick.measure(self.student)
        if found.top1 is not None:
            self.recovery.events.step("train_multipliers", self.done, self.total, {"agreement": found.top1})
        return found


class _Multiplied(nn.Module):
    """The student run with other values in place of some parameters; the student itself is not touched."""

    def __init__(self, student: nn.Module, products: Any) -> None:
        super().__init__()
        self.student, self.products = student, products
        self.train(student.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self.student, self.products(), args, kwargs)


def _multiplied(student: nn.Module) -> list[str]:
    """The weights on an int8 grid and the biases of their layers, by name."""
    names = []
    for prefix, module in student.named_modules():
        fake_quantize = getattr(module, "weight_fake_quant", None)
        if fake_quantize is None or isinstance(fake_quantize, CodebookWeightFakeQuantize):
            continue
        leaves = [leaf for leaf in ("weight", "bias") if module._parameters.get(leaf) is not None]
        names += [f"{prefix}.{leaf}" if prefix else leaf for leaf in leaves]
    return names


def _settle(recovery: Recovery) -> None:
    """Let observers that are still on see some inputs, and turn all of them off: the thresholds stay from now on."""
    modules = [m for m in recovery.student.modules() if not isinstance(m, CodebookWeightFakeQuantize)]
    observers: list[Any] = [m for m in modules if hasattr(m, "observer_enabled")]
    if any(int(observer.observer_enabled[0]) for observer in observers):
        source = recovery.source()
        order = random_order(len(source), min(_CALIBRATION, len(source)), recovery.seed)
        with evaluating(recovery.student):
            for _, batch in source.batches(_CALIBRATION_BATCH, order):
                batch.to(device_of(recovery.student)).run(recovery.student)
    for observer in observers:
        observer.observer_enabled[0] = 0


def _loss(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    difference = (student.float() - teacher.float()).flatten(1)
    if kind == "mse":
        return difference.square().mean()
    if kind == "smooth_l1":
        return (difference.square() + 1e-5).sqrt().sum(1).mean()
    return (difference.square().sum(1).mean() + 1e-12).sqrt()


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``train_multipliers``."""
    return {"train_multipliers": TrainMultipliers}
