"""The training loop of the steps that learn from the teacher's outputs: options, epochs, best state."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any, Literal

import torch
from lloydmax.data import Batch, split
from lloydmax.errors import RecoveryError
from lloydmax.hooks.protocols import Recovery
from lloydmax.recovery import resume
from lloydmax.runtime import processes
from lloydmax.runtime.modes import device_of, evaluation_mode
from lloydmax.teacher.agreement import Agreement, Yardstick
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lloydmax_strategies.training.latent import Latents, StraightThrough
from lloydmax_strategies.training.mimic import Mimic
from lloydmax_strategies.training.precision import depthwise_in_float32, prefers_bfloat16
from lloydmax_strategies.training.rates import learning_rates
from lloydmax_strategies.training.soft import Annealed
from lloydmax_strategies.training.views import ViewOptions, Views
from lloydmax_strategies.training.weighting import WeightingOptions

HELD_OUT_MOST = 1000


class TrainingOptions(ViewOptions, WeightingOptions):
    """Options of every step that trains: these, those of `ViewOptions` and of `WeightingOptions`."""

    model_config = ConfigDict(extra="forbid")

    loss: Literal["mse", "kl", "cosine", "l1"] = Field(
        default="mse", description="`mse`, `l1`, `cosine` (1 - cosine over the classes) or `kl` (of the softmax)."
    )

    temperature: PositiveFloat = Field(
        default=1.0, description="of `kl`; the loss is multiplied by its square (Hinton et al. 2015)."
    )

    output: str | int | None = Field(
        default=None,
        description="key, attribute or position of the output to mimic; default: `logits`, or every floating one.",
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
        "before the fit, which learn by the straight-through estimator and choose their codes again after every step; "
        "where the recipe says `bits`, the price of a bit counts, and the entropy of all codes stays what it is. "
        "`anneal`: the same, but for 85 % of the steps the network computes with mixtures of the two centroids next "
        "to each latent weight, which harden (Cho et al. 2022, DKM); not for vectors.",
    )

    codes_lr: PositiveFloat = Field(
        default=2e-3,
        description="peak learning rate of the latent weights, in units of the rms of each output channel.",
    )

    epochs: PositiveInt = Field(default=10, description="passes over the data.")

    steps: PositiveInt | None = Field(default=None, description="optimizer steps, instead of `epochs`.")

    batch_size: PositiveInt = Field(default=128, description="samples of one step.")

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

    channels_last: bool = Field(
        default=True, description="4-D inputs in that memory format, which convolutions prefer."
    )

    batch_norm: Literal["train", "eval"] = Field(
        default="eval",
        description="`train` normalizes with batch statistics and updates the running ones, `eval` with the running "
        "ones, which stay.",
    )

    samples: PositiveInt | None = Field(default=None, description="use at most so many inputs, drawn at random.")

    held_out: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        description="share of the inputs (at most 1,000) kept aside to choose the best state: with `loss: kl` the one "
        "with the least divergence, else with the least squared difference from the teacher's outputs.",
    )

    patience: PositiveInt | None = Field(
        default=None, description="stop after so many epochs without a better state; `null`: never."
    )


class Training:
    """One run over the unlabelled data. A subclass may add parts to the loss and measure on other inputs.

    Args:
        name: of the recovery step, for events and messages.
        options: what to do.
        recovery: what to do it on.
        batch_size: of the unlabelled inputs in one step; ``None``: the option's.

    Raises:
        RecoveryError: no data, or no parameter of the student requires a gradient.
    """

    resumable = True
    """Whether all state of a run is here; a step for which it is not starts anew after a kill."""

    def __init__(self, name: str, options: TrainingOptions, recovery: Recovery, batch_size: int | None = None) -> None:
        self.name, self.options, self.recovery = name, options, recovery
        self.source = recovery.source()
        self.parameters = [p for p in recovery.student.parameters() if p.requires_grad]
        if not self.parameters:
            raise RecoveryError(
                f"{name} has nothing to train: no parameter of the student requires a gradient; "
                "see 'trainable' in the recipe"
            )
        self.batch_size = batch_size or options.batch_size
        self.device = device_of(recovery.student)
        self.generator = recovery.generator()
        count = min(len(self.source), options.samples or len(self.source))
        held_out = min(HELD_OUT_MOST, int(options.held_out * count))
        self.order, self.held_out = split(self.source, held_out, recovery.seed)
        self.order = self.order[: max(count - len(self.held_out), 1)]
        self.steps_each = max(1, len(self.order) // self.batch_size)
        self.done, self.total = 0, options.steps or options.epochs * self.steps_each
        groups = learning_rates(recovery.student, self.parameters, options.lr, options.relative_lr)
        self.latents: Latents | None = None
        if options.codes != "fixed":
            kind = Annealed if options.codes == "anneal" else StraightThrough
            self.latents = Latents(recovery.student, recovery.original, kind)
            self.parameters = [*self.parameters, *self.latents.parameters]
            groups.append({"params": self.latents.parameters, "lr": options.codes_lr})
        self.optimizer = _optimizer(options, groups)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        bfloat16 = options.precision == "bfloat16" or (
            options.precision == "auto" and prefers_bfloat16(recovery.student, self.device)
        )
        self.precision = "bfloat16" if bfloat16 else "float32"
        self.views = Views(options, self.generator, recovery.seed)
        self.local = self._shared_out()
        student = processes.replicated(recovery.student)
        self.mimic = Mimic(options, recovery, self.source, self.order, self.views, self.precision, student)
        self.yardstick: Yardstick | None = None
        if len(self.held_out):
            self.yardstick = Yardstick(
                recovery.teacher, self.source, self.held_out, key=options.output, cache=recovery.cache
            )
        self.norms = [m for m in recovery.student.modules() if isinstance(m, _BatchNorm)]
        self.state = _State(self.parameters, self.norms, [] if self.latents is None else self.latents.state)

    def run(self) -> dict[str, Any]:
        """Train; returns what was measured. Both models are left in the mode that they were in."""
        models = self.recovery.teacher, self.recovery.student
        narrow = models if self.precision == "bfloat16" else ()
        with evaluation_mode(*models), depthwise_in_float32(self.device, *narrow):
            try:
                return self.train()
            finally:
                self.close()

    def train(self) -> dict[str, Any]:
        """The loop over epochs; the best state is kept."""
        options, parts, stopped = self.options, {"loss": math.nan}, "all steps done"
        earlier = self._continued()
        first, best, waited = earlier or (self._measured(), None, 0)
        best = best or first
        while self.done < self.total:
            self._batch_norm_mode(options.batch_norm == "train")
            try:
                parts = self._epoch()
            except KeyboardInterrupt:
                self.state.restore()
                raise
            finally:
                self._batch_norm_mode(False)
            if not _finite(parts):
                worst = next(value for value in parts.values() if not math.isfinite(value))
                stopped = f"the loss became {worst} at step {self.done}; the best state before was restored"
                warnings.warn(f"{self.name}: {stopped}; try a smaller lr, or clip: 1.0", stacklevel=2)
                break
            found = self._measured()
            better = is_better(found, best, options.loss)
            best, waited = (found, 0) if better else (best, waited + 1)
            if better:
                self.state.keep()
            self._keep_part(first, best, waited)
            if options.patience is not None and waited >= options.patience:
                stopped = f"no better held-out state for {waited} epochs"
                break
        if best is not None or not _finite(parts):
            self.state.restore()
        return {
            "steps": self.done,
            "samples": len(self.order),
            **{key: value if math.isfinite(value) else None for key, value in parts.items()},
            "held_out_samples": 0 if best is None else best.samples,
            "agreement_before": first and first.top1,
            "agreement": best and best.top1,
            "precision": self.precision,
            "teacher_runs": "once" if self.mimic.targets is not None else "in every step",
            "stopped": stopped,
            **({} if self.latents is None else self.latents.measured()),
        }

    def losses(self, indices: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, which are added up; ``loss`` is the distance to the teacher's outputs."""
        parts = {"loss": self.mimic.run(indices, batch)[0]}
        if self.mimic.features is not None:
            parts["features"] = self.options.features * self.mimic.features.distance()
        return parts

    def stepped(self) -> None:
        """Called after each step of the optimizer."""

    def measure(self) -> Agreement | None:
        """Agreement on the inputs that choose the best state; ``None``: the last state is kept."""
        return None if self.yardstick is None else self.yardstick.measure(self.recovery.student)

    def close(self) -> None:
        """Release what the run needed."""
        self.mimic.close()
        if self.latents is not None:
            self.latents.remove()

    def _epoch(self) -> dict[str, float]:
        smooth: dict[str, float] = {"loss": math.nan}
        order = self.order[torch.randperm(len(self.order), generator=self.generator)]
        drop_last = len(self.order) > self.batch_size
        if processes.size() > 1:
            whole = len(order) // self.batch_size * self.batch_size if drop_last else self.local * processes.size()
            order = torch.cat([processes.share(part) for part in order[:whole].split(self.batch_size)])
        for indices, batch in self.source.batches(self.local, order, drop_last=drop_last):
            parts = self._step(indices, batch)
            self.done += 1
            if not _finite(parts):
                return parts
            smooth = {
                key: value if math.isnan(smooth.get(key, math.nan)) else 0.95 * smooth[key] + 0.05 * value
                for key, value in parts.items()
            }
            self.recovery.events.step(self.name, self.done, self.total, dict(smooth))
            if self.done >= self.total:
                break
        return smooth

    def _step(self, indices: Tensor, batch: Batch) -> dict[str, float]:
        if self.latents is not None:
            self.latents.begin_step(self.done / self.total)
        parts = self.losses(indices, batch)
        values = torch.stack([part.detach() for part in parts.values()]).tolist()
        values = [value / processes.size() for value in processes.summed(values, self.device)]
        told = dict(zip(parts, values, strict=True))
        if _finite(told):
            self.optimizer.zero_grad(set_to_none=True)
            reduce(add, parts.values()).backward()
            if self.options.clip is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.options.clip)
            self.optimizer.step()
            self.schedule.step()
            if self.latents is not None:
                self.latents.choose()
            self.stepped()
        return told

    def _shared_out(self) -> int:
        """Samples of one step in this process."""
        workers = processes.size()
        if workers == 1:
            return self.batch_size
        samples = min(self.batch_size, len(self.order))
        if self.batch_size % workers or samples < workers:
            raise RecoveryError(
                f"{self.name}: a batch_size of {self.batch_size} ({len(self.order)} samples) cannot be shared equally "
                f"by {workers} processes; write a multiple of {workers}"
            )
        if self.options.batch_norm == "train":
            warnings.warn(
                f"{self.name}: with 'batch_norm: train' each of the {workers} processes normalizes with its own share "
                "of the batch",
                stacklevel=2,
            )
        return samples // workers

    def _measured(self) -> Agreement | None:
        found = self.measure()
        if found is not None and found.top1 is not None:
            done = self.schedule.last_epoch
            self.recovery.events.step(self.name, done, self.total, {"agreement": found.top1})
        return found

    def _keep_part(self, first: Agreement | None, best: Agreement | None, waited: int) -> None:
        """Write all that the rest of the run depends on, after an epoch."""
        if self.recovery.part is None or not self.resumable:
            return
        scores: dict[str, Any] = {"first": first and asdict(first), "best": best and asdict(best)}
        scores |= {"waited": waited, "done": self.done}
        scores |= {"multiplier": 1.0 if self.latents is None else self.latents.multiplier}
        resume.write(
            self.recovery.part,
            {
                "options": self.options.model_dump_json(),
                "scores": json.dumps(scores),
                "live": self.state.live,
                "kept": self.state.best,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.last_epoch,
                "generator": self.generator.get_state(),
                "beta": json.dumps(self.views.beta.bit_generator.state),
            },
        )

    def _continued(self) -> tuple[Agreement | None, Agreement | None, int] | None:
        """Go on where an earlier process was killed: ``(first, best, waited)``, or ``None`` at the beginning."""
        part = resume.read(self.recovery.part) if self.resumable else None
        if part is None or part["options"] != self.options.model_dump_json():
            return None
        self.state.load(part["live"], part["kept"])
        self.optimizer.load_state_dict(part["optimizer"])
        self.schedule.last_epoch = part["schedule"]
        self.generator.set_state(part["generator"])
        self.views.beta.bit_generator.state = json.loads(part["beta"])
        scores = json.loads(part["scores"])
        self.done = scores["done"]
        if self.latents is not None:
            self.latents.multiplier = scores["multiplier"]
        first, best = (Agreement(**scores[key]) if scores[key] else None for key in ("first", "best"))
        return first, best, scores["waited"]

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


class _State:
    """The best state of what training changes: trained parameters, batch-norm statistics, codes."""

    def __init__(self, parameters: list[nn.Parameter], norms: list[_BatchNorm], codes: list[Tensor]) -> None:
        self.live = [*(p.detach() for p in parameters), *(b for norm in norms for b in norm.buffers()), *codes]
        self.keep()

    def keep(self) -> None:
        """Remember the present state."""
        self.best = [tensor.clone() for tensor in self.live]

    def restore(self) -> None:
        """Go back to the remembered state."""
        self._set(self.best)

    def load(self, live: list[Tensor], best: list[Tensor]) -> None:
        """Take over a present and a remembered state."""
        self._set(best)
        self.keep()
        self._set(live)

    def _set(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(self.live, values, strict=True):
                tensor.copy_(value)


def _optimizer(options: TrainingOptions, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, nesterov=options.momentum > 0, **shared)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    parameters = [p for group in groups for p in group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.dtype == torch.float32 for p in parameters)
    return kind(groups, fused=fused or None, **shared)


def is_better(found: Agreement | None, best: Agreement | None, loss: str) -> bool:
    """Whether a state is nearer to the teacher than the best so far; agreement alone is too coarse on few inputs."""
    if found is None or best is None:
        return True
    distance, least = (a.kl if loss == "kl" and a.kl is not None else a.mse for a in (found, best))
    return distance < least or (math.isnan(least) and not math.isnan(distance))


def _finite(parts: dict[str, float]) -> bool:
    return all(map(math.isfinite, parts.values()))
