"""Distillation without labels: the student learns to give the teacher's outputs on unlabelled inputs.

The setting is that of Thonglek et al. (IJCNN 2020): the same input goes through both models, the loss is taken
between the two output vectors, and only what the recipe leaves trainable learns.
"""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lloydmax.data import Batch, Source, split
from lloydmax.errors import RecoveryError
from lloydmax.hookspecs import hookimpl
from lloydmax.outputs import Agreement, TeacherOutputs, Yardstick, class_axis, divergence, output_tensors
from lloydmax.strategy import Recovery, device_of, evaluation_mode
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_HELD_OUT_MOST = 1000


class Distill:
    """Recovery step ``distill``."""

    needs_data = True

    class Options(BaseModel):
        """Options of ``distill``.

        Attributes:
            loss: ``mse``, ``l1``, ``cosine`` (1 - cosine over the classes) or ``kl`` (of the softmax).
            temperature: of ``kl``; the loss is multiplied by its square (Hinton et al. 2015).
            output: key, attribute or position of the output to mimic; default: ``logits``, or every floating one.
            epochs: passes over the data.
            steps: optimizer steps, instead of ``epochs``.
            batch_size: samples of one step.
            optimizer: ``adamw``, ``adam`` or ``sgd`` (Nesterov momentum).
            lr: peak learning rate.
            momentum: of ``sgd``.
            weight_decay: of the optimizer.
            warmup: share of the steps in which the learning rate rises linearly.
            schedule: ``cosine`` (to zero) or ``constant``, after the warm-up.
            clip: largest norm of the gradient; ``null``: no clipping.
            precision: ``float32``, ``bfloat16`` (autocast) or ``auto``: bfloat16 where the hardware multiplies
                it natively and the model has no depthwise convolutions (they are slower in it on CPUs).
            channels_last: 4-D inputs in that memory format, which convolutions prefer.
            batch_norm: ``train`` normalizes with batch statistics and updates the running ones, ``eval`` with
                the running ones, which stay.
            augment: random views, the same for student and teacher: ``flip`` (left-right, per sample) and
                ``crop`` (shifts by up to an eighth, per batch).
            mixup: alpha of Beta(alpha, alpha) for convex mixtures of two inputs; 0: none (Zhang et al. 2018).
            samples: use at most so many inputs, drawn at random.
            held_out: share of the inputs (at most 1,000) kept aside to choose the best state.
            patience: stop after so many epochs without a better held-out agreement; ``null``: never.
        """

        model_config = ConfigDict(extra="forbid")

        loss: Literal["mse", "kl", "cosine", "l1"] = "mse"
        temperature: PositiveFloat = 1.0
        output: str | int | None = None
        epochs: PositiveInt = 10
        steps: PositiveInt | None = None
        batch_size: PositiveInt = 128
        optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
        lr: PositiveFloat = 1e-3
        momentum: float = Field(default=0.9, ge=0, lt=1)
        weight_decay: NonNegativeFloat = 0.0
        warmup: float = Field(default=0.05, ge=0, le=1)
        schedule: Literal["cosine", "constant"] = "cosine"
        clip: PositiveFloat | None = None
        precision: Literal["auto", "float32", "bfloat16"] = "auto"
        channels_last: bool = True
        batch_norm: Literal["train", "eval"] = "eval"
        augment: list[Literal["flip", "crop"]] = Field(default_factory=list)
        mixup: NonNegativeFloat = 0.0
        samples: PositiveInt | None = None
        held_out: float = Field(default=0.05, ge=0, le=0.5)
        patience: PositiveInt | None = None

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Train every parameter of the student that requires a gradient; returns what was measured."""
        source = recovery.source()
        parameters = [p for p in recovery.student.parameters() if p.requires_grad]
        if not parameters:
            raise RecoveryError(
                "distill has nothing to train: no parameter of the student requires a gradient; "
                "see 'trainable' in the recipe"
            )
        with evaluation_mode(recovery.teacher, recovery.student):
            training = _Training(self.options, recovery, source, parameters)
            try:
                return training.run()
            finally:
                if training.targets is not None and recovery.cache is None:
                    training.targets.close()


class _Training:
    """One run: what a step needs, and the loop."""

    def __init__(self, options: Distill.Options, recovery: Recovery, source: Source, parameters: list[nn.Parameter]):
        self.options, self.recovery, self.source, self.parameters = options, recovery, source, parameters
        self.device = device_of(recovery.student)
        self.generator = recovery.generator()
        self.beta = np.random.default_rng(recovery.seed)
        count = min(len(source), options.samples or len(source))
        self.order, held_out = split(source, min(_HELD_OUT_MOST, int(options.held_out * count)), recovery.seed)
        self.order = self.order[: max(count - len(held_out), 1)]
        self.steps_each = max(1, len(self.order) // options.batch_size)
        self.total = options.steps or options.epochs * self.steps_each
        self.optimizer = _optimizer(options, parameters)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.targets = self._keep_targets()
        self.yardstick: Yardstick | None = None
        if len(held_out):
            self.yardstick = Yardstick(recovery.teacher, source, held_out, key=options.output, cache=recovery.cache)
        bfloat16 = options.precision == "bfloat16" or (
            options.precision == "auto" and prefers_bfloat16(recovery.student, self.device)
        )
        self.precision = "bfloat16" if bfloat16 else "float32"
        self.norms = [m for m in recovery.student.modules() if isinstance(m, _BatchNorm)]
        self.state = _State(parameters, self.norms)

    def run(self) -> dict[str, Any]:
        """The loop over epochs; the best state is kept."""
        options, done, loss, stopped = self.options, 0, math.nan, "all steps done"
        best, waited = self._measure(), 0
        first = best
        while done < self.total:
            self._batch_norm_mode(options.batch_norm == "train")
            done, loss = self._epoch(done)
            self._batch_norm_mode(False)
            if not math.isfinite(loss):
                stopped = f"the loss became {loss} at step {done}; the best state before was restored"
                warnings.warn(f"distill: {stopped}; try a smaller lr, or clip: 1.0", stacklevel=2)
                break
            found = self._measure()
            if _better(found, best):
                best, waited = found, 0
                self.state.keep()
                continue
            waited += 1
            if options.patience is not None and waited >= options.patience:
                stopped = f"no better held-out agreement for {waited} epochs"
                break
        if self.yardstick is not None or not math.isfinite(loss):
            self.state.restore()
        return {
            "steps": done,
            "samples": len(self.order),
            "loss": loss if math.isfinite(loss) else None,
            "held_out_samples": 0 if best is None else best.samples,
            "agreement_before": first and first.top1,
            "agreement": best and best.top1,
            "precision": self.precision,
            "stopped": stopped,
        }

    def _epoch(self, done: int) -> tuple[int, float]:
        options, smooth = self.options, math.nan
        order = self.order[torch.randperm(len(self.order), generator=self.generator)]
        for indices, batch in self.source.batches(options.batch_size, order, drop_last=self._drop_last()):
            loss = self._step(indices, batch)
            done += 1
            if not math.isfinite(loss):
                return done, loss
            smooth = loss if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss
            self.recovery.events.step("distill", done, self.total, {"loss": smooth})
            if done >= self.total:
                break
        return done, smooth

    def _step(self, indices: Tensor, batch: Batch) -> float:
        options = self.options
        inputs = batch.to(self.device, channels_last=options.channels_last)
        if options.augment or options.mixup:
            inputs = self._view(inputs)
        if self.targets is not None:
            wanted = self.targets.rows(indices, self.device)
        else:
            with torch.no_grad():
                wanted = output_tensors(inputs.run(self.recovery.teacher), options.output)
        with self._autocast():
            found = output_tensors(inputs.run(self.recovery.student), options.output)
        losses = [_loss(ours.float(), theirs.float(), options) for ours, theirs in zip(found, wanted, strict=True)]
        loss = torch.stack(losses).mean()
        value = loss.item()
        if math.isfinite(value):
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if options.clip is not None:
                nn.utils.clip_grad_norm_(self.parameters, options.clip)
            self.optimizer.step()
            self.schedule.step()
        return value

    def _measure(self) -> Agreement | None:
        if self.yardstick is None:
            return None
        found = self.yardstick.measure(self.recovery.student)
        if found.top1 is not None:
            done = self.schedule.last_epoch
            self.recovery.events.step("distill", done, self.total, {"agreement": found.top1})
        return found

    def _view(self, batch: Batch) -> Batch:
        flips = shift = None
        if "flip" in self.options.augment:
            flips = torch.rand(len(batch), generator=self.generator) < 0.5
        if "crop" in self.options.augment:
            shift = torch.rand(2, generator=self.generator).tolist()
        partner, share = None, 1.0
        if self.options.mixup:
            partner = torch.randperm(len(batch), generator=self.generator)
            share = float(self.beta.beta(self.options.mixup, self.options.mixup))

        def view(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return x
            if x.dim() == 4 and flips is not None:
                x = torch.where(flips.to(x.device)[:, None, None, None], x.flip(-1), x)
            if x.dim() == 4 and shift is not None:
                x = _shifted(x, shift)
            return x if partner is None else share * x + (1 - share) * x[partner.to(x.device)]

        return batch.map(view)

    def _keep_targets(self) -> TeacherOutputs | None:
        if self.options.augment or self.options.mixup:
            return None
        recovery = self.recovery
        return TeacherOutputs.keep(
            recovery.teacher, self.source, self.order, self.options.output, recovery.workdir, recovery.cache
        )

    def _rate(self, step: int) -> float:
        warm = int(self.options.warmup * self.total)
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.options.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, self.total - warm))))

    def _autocast(self) -> Any:
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _batch_norm_mode(self, training: bool) -> None:
        for norm in self.norms:
            norm.train(training)

    def _drop_last(self) -> bool:
        return len(self.order) > self.options.batch_size


class _State:
    """The best state of what training changes: trained parameters and batch-norm statistics."""

    def __init__(self, parameters: list[nn.Parameter], norms: list[_BatchNorm]) -> None:
        self._live = [*(p.detach() for p in parameters), *(b for norm in norms for b in norm.buffers())]
        self.keep()

    def keep(self) -> None:
        """Remember the present state."""
        self._best = [tensor.clone() for tensor in self._live]

    def restore(self) -> None:
        """Go back to the remembered state."""
        with torch.no_grad():
            for tensor, best in zip(self._live, self._best, strict=True):
                tensor.copy_(best)


def prefers_bfloat16(model: nn.Module, device: torch.device) -> bool:
    """Whether training is expected to be faster in bfloat16: a rule of hardware and model, not a timing, so that
    the same machine always decides alike. The fake quantizers of torch.ao and torchao compute in float32 only."""
    if any(hasattr(module, "fake_quant_enabled") for module in model.modules()):
        return False
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    depthwise = any(getattr(m, "groups", 1) > 1 and getattr(m, "in_channels", 0) == m.groups for m in model.modules())
    return _native_bfloat16() and not depthwise


def _native_bfloat16() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(probe())


def _optimizer(options: Distill.Options, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=options.momentum, nesterov=options.momentum > 0, **shared)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    fused = all(p.device.type in ("cpu", "cuda") and p.dtype == torch.float32 for p in parameters)
    return kind(parameters, fused=fused or None, **shared)


def _loss(student: Tensor, teacher: Tensor, options: Distill.Options) -> Tensor:
    if options.loss == "mse":
        return F.mse_loss(student, teacher)
    if options.loss == "l1":
        return F.l1_loss(student, teacher)
    axis = class_axis(teacher)
    if axis is None:
        raise RecoveryError(f"loss {options.loss!r} needs an output with classes, got shape {tuple(teacher.shape)}")
    if options.loss == "cosine":
        return 1 - F.cosine_similarity(student, teacher, dim=axis).mean()
    return options.temperature**2 * divergence(student, teacher, axis, options.temperature)


def _better(found: Agreement | None, best: Agreement | None) -> bool:
    if found is None or best is None:
        return True
    return (found.top1 or 0.0, -found.mse) > (best.top1 or 0.0, -best.mse)


def _shifted(x: Tensor, where: list[float]) -> Tensor:
    height, width = x.shape[-2:]
    top, left = max(1, height // 8), max(1, width // 8)
    padded = F.pad(x, (left, left, top, top), mode="replicate")
    down, right = int(where[0] * (2 * top + 1)), int(where[1] * (2 * left + 1))
    return padded[..., down : down + height, right : right + width]


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``distill``."""
    return {"distill": Distill}
