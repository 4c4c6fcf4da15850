"""Distillation: what a student learns from the teacher's outputs, with which optimizer, in which precision."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any, ClassVar, Literal

import torch
from lloydmax import RecoveryError
from lloydmax.extend import Agreement, Batch, LoopOptions, Recovery, TrainingLoop
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lloydmax_strategies.training.latent import Latents, StraightThrough
from lloydmax_strategies.training.mimic import Mimic
from lloydmax_strategies.training.precision import depthwise_in_float32, is_float16, prefers_bfloat16
from lloydmax_strategies.training.rates import learning_rates
from lloydmax_strategies.training.soft import Annealed
from lloydmax_strategies.training.views import ViewOptions, Views, are_plain
from lloydmax_strategies.training.weighting import WeightingOptions


class TrainingOptions(ViewOptions, WeightingOptions, LoopOptions):
    """Options of every step that trains: these, those of `ViewOptions`, of `WeightingOptions` and of `LoopOptions`."""

    loss: Literal["mse", "kl", "cosine", "l1", "auto"] = Field(
        default="mse",
        description="`mse`, `l1`, `cosine` (1 - cosine over the classes), `kl` (of the softmax), or `auto`: by what "
        "each output tells, the divergence of classes and of independent scores, and of quantities half the squared "
        "difference over their variance.",
    )

    temperature: PositiveFloat = Field(
        default=1.0, description="of `kl`; the loss is multiplied by its square (Hinton et al. 2015)."
    )

    features: NonNegativeFloat = Field(
        default=0.0,
        description="weight of a second loss: over the blocks of the network (whatever stands in a `Sequential` or "
        "`ModuleList`), the squared difference of their outputs over the teacher's mean square. The teacher then runs "
        "in every step; 0: none.",
    )

    codes: Literal["fixed", "learn", "anneal"] = Field(
        default="fixed",
        description="`fixed`, or `learn`: behind the codes of every trained codebook stand latent weights, from "
        "before the fit where these choose the codes that are there, which learn by the straight-through estimator and "
        "choose their codes again after every step; where the recipe says `bits`, the price of a bit counts, and the "
        "entropy of all codes stays what it is. "
        "`anneal`: the same, but for 85 % of the steps the network computes with mixtures of the two centroids next "
        "to each latent weight, which harden (Cho et al. 2022, DKM); not for vectors.",
    )

    codes_lr: PositiveFloat = Field(
        default=2e-3,
        description="peak learning rate of the latent weights, in units of the rms of each output channel.",
    )

    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        default="adamw", description="`adamw`, `adam` or `sgd` (Nesterov momentum)."
    )

    lr: PositiveFloat = Field(default=1e-3, description="peak learning rate.")

    relative_lr: bool = Field(
        default=False,
        description="multiply the learning rate of every tensor by the rms of its values, that of centroids by that "
        "of their weights, at least 1e-3 (Shazeer & Stern 2018, Adafactor, section 8).",
    )

    momentum: float = Field(default=0.9, ge=0, lt=1, description="of `sgd`.")

    weight_decay: NonNegativeFloat = Field(default=0.0, description="of the optimizer.")

    warmup: float = Field(
        default=0.05, ge=0, le=1, description="share of the steps in which the learning rate rises linearly."
    )

    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="`cosine` (to zero) or `constant`, after the warm-up."
    )

    clip: PositiveFloat | None = Field(default=None, description="largest norm of the gradient; `null`: no clipping.")

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="`float32`, `bfloat16` (autocast) or `auto`: bfloat16 where the hardware multiplies it natively. "
        "Depthwise convolutions on CPUs, whose kernels for it are slow, stay float32.",
    )

    parts: PositiveInt | None = Field(
        default=None,
        le=1024,
        description="each batch is computed in so many parts, one after the other, whose gradients are added up: that "
        "takes less memory, and any number of processes up to this one shares the parts and comes to the same bytes; "
        "`null`: one part for each process.",
    )

    channels_last: bool = Field(
        default=True, description="4-D inputs in that memory format, which convolutions prefer."
    )

    batch_norm: Literal["train", "eval"] = Field(
        default="eval",
        description="`train` normalizes with batch statistics and updates the running ones, `eval` with the running "
        "ones, which stay.",
    )

    held_out: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        description="share of the inputs (at most 1,000) kept aside to choose the best state: with `loss: kl` the one "
        "with the least divergence, with `auto` the one nearest in what the outputs tell, else with the least squared "
        "difference from the teacher's outputs.",
    )


class Training(TrainingLoop):
    """One run over the unlabelled data. A subclass may add parts to the loss and measure on other inputs.

    Args:
        name: of the recovery step, for events and messages.
        options: what to do.
        recovery: what to do it on.
        batch_size: of the unlabelled inputs in one step; ``None``: the option's.

    Raises:
        RecoveryError: no data, or no parameter of the student requires a gradient.
    """

    hint: ClassVar[str] = "a smaller lr, or clip: 1.0"
    options: TrainingOptions

    def __init__(self, name: str, options: TrainingOptions, recovery: Recovery, batch_size: int | None = None) -> None:
        super().__init__(name, options, recovery, batch_size=batch_size)
        student = recovery.student
        if options.batch_norm == "train" and (parts := options.parts or recovery.processes) > 1:
            warnings.warn(
                f"{name}: with 'batch_norm: train' each of the {parts} parts of a batch is normalized by itself",
                stacklevel=2,
            )
        groups = learning_rates(student, self.parameters, options.lr, options.relative_lr)
        self.latents: Latents | None = None
        if options.codes != "fixed":
            kind = Annealed if options.codes == "anneal" else StraightThrough
            self.latents = Latents(student, recovery.original, kind)
            self.parameters = [*self.parameters, *self.latents.parameters]
            groups.append({"params": self.latents.parameters, "lr": options.codes_lr})
        self.optimizer = _optimizer(options, groups)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        if options.precision == "bfloat16" and is_float16(student):
            raise RecoveryError(
                f"{name}: precision: bfloat16 does not go with a float16 model, whose norms refuse it: use auto"
            )
        bfloat16 = options.precision == "bfloat16" or (
            options.precision == "auto" and prefers_bfloat16(student, self.device)
        )
        self.precision = "bfloat16" if bfloat16 else "float32"
        self.views = Views(options, self.generator, recovery.seed)
        self.mimic = Mimic(options, recovery, self.targets, self.views, self.precision)
        self.norms = [module for module in student.modules() if isinstance(module, _BatchNorm)]

    @property
    def repeats(self) -> bool:
        """No views, and no features of the teacher, which has to run for them."""
        return are_plain(self.options) and not self.options.features

    @property
    def divides(self) -> bool:
        """Where samples are neither mixed nor normalized together, nor weighed by each other; where memory is limited
        they are mixed and weighed in parts."""
        options = self.options
        apart = self.outputs.at_most is not None or not (options.confidence or options.mixup or options.cutmix)
        return apart and not any(norm.training for norm in self.norms)

    def run(self) -> dict[str, Any]:
        """Train; returns what was measured. Both models are left in the mode that they were in."""
        narrow = (self.recovery.teacher, self.recovery.student) if self.precision == "bfloat16" else ()
        with depthwise_in_float32(self.device, *narrow):
            return super().run()

    def epoch(self) -> dict[str, float]:
        """With batch norms in the mode that was asked for."""
        self._batch_norm_mode(self.options.batch_norm == "train")
        try:
            return super().epoch()
        finally:
            self._batch_norm_mode(False)

    def reseed(self, seed: int) -> None:
        """With what draws the mixtures."""
        super().reseed(seed)
        self.views.reseed(seed)

    def begin_step(self) -> None:
        """Tell the latent weights how far the run is."""
        if self.latents is not None:
            self.latents.begin_step(self.done / self.total)

    def losses(self, indices: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Distance to the teacher's outputs, and to its features."""
        return self.mimic.run(self.student, indices, batch)[0]

    def step(self, loss: Tensor) -> dict[str, float]:
        """One step of optimizer and schedule, after which latent weights choose their codes."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.options.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.options.clip)
        self.optimizer.step()
        self.schedule.step()
        if self.latents is not None:
            self.latents.choose()
        return {}

    def live(self) -> list[Tensor]:
        """Trained parameters, batch-norm statistics, codes."""
        statistics = [buffer for norm in self.norms for buffer in norm.buffers()]
        return [*super().live(), *statistics, *([] if self.latents is None else self.latents.state)]

    def more_state(self) -> dict[str, Any]:
        """Optimizer, schedule, what draws the mixtures, and what the price of a bit is multiplied by."""
        return super().more_state() | {
            "schedule": self.schedule.last_epoch,
            "beta": json.dumps(self.views.beta.bit_generator.state),
            "rate": None if self.latents is None else self.latents.rate,
        }

    def load_more_state(self, state: dict[str, Any]) -> None:
        """The reverse."""
        super().load_more_state(state)
        self.schedule.last_epoch = state["schedule"]
        self.views.beta.bit_generator.state = json.loads(state["beta"])
        if self.latents is not None:
            self.latents.rate = state["rate"]

    def distance(self, found: Agreement) -> float:
        """What is trained tells which state is better."""
        if self.options.loss == "auto" and found.damage is not None:
            return found.damage
        return found.kl if self.options.loss == "kl" and found.kl is not None else found.mse

    def figures(self) -> dict[str, Any]:
        """What the run measured."""
        found = super().figures()
        return {
            "steps": found["steps"],
            "samples": found["samples"],
            **self.last_losses(),
            "held_out_samples": found["held_out_samples"],
            "agreement_before": found["agreement_before"],
            "agreement": found["agreement"],
            "precision": self.precision,
            "teacher_runs": "once" if self.targets.kept else "in every step",
            "stopped": found["stopped"],
            **({} if self.latents is None else self.latents.measured()),
        }

    def close(self) -> None:
        """Release what the run needed."""
        super().close()
        self.mimic.close()
        if self.latents is not None:
            self.latents.remove()

    def _rate(self, step: int) -> float:
        warm = int(self.options.warmup * self.total)
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.options.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, self.total - warm))))

    def _batch_norm_mode(self, training: bool) -> None:
        for norm in self.norms:
            norm.train(training)


def _optimizer(options: TrainingOptions, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, nesterov=options.momentum > 0, **shared)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    parameters = [p for group in groups for p in group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.dtype == torch.float32 for p in parameters)
    return kind(groups, fused=fused or None, **shared)
