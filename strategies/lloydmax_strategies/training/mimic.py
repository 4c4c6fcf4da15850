"""What a student mimics: the teacher's outputs for the inputs of one source, and the distance to them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from lloydmax.data import Batch, Source
from lloydmax.errors import RecoveryError
from lloydmax.outputs import TeacherOutputs, class_axis, divergence, output_tensors
from lloydmax.strategy import Recovery, device_of
from torch import Tensor, nn


class MimicOptions(Protocol):
    """The options that matter here; see :class:`lloydmax_strategies.training.loop.TrainingOptions`."""

    loss: Literal["mse", "kl", "cosine", "l1"]
    temperature: float
    output: str | int | None
    channels_last: bool
    augment: list[Literal["flip", "crop"]]
    mixup: float


class Views:
    """Random views of batches, the same for student and teacher.

    Args:
        options: ``augment`` and ``mixup``.
        generator: draws flips, shifts and partners.
        seed: of the shares of mixtures.
    """

    def __init__(self, options: MimicOptions, generator: torch.Generator, seed: int) -> None:
        self.options, self.generator = options, generator
        self.beta = np.random.default_rng(seed)
        self.plain = not (options.augment or options.mixup)

    def __call__(self, batch: Batch) -> Batch:
        """A view of the floating tensors of ``batch``; images are flipped and shifted."""
        if self.plain:
            return batch
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


class Mimic:
    """The same inputs through student and teacher, and the loss between their outputs.

    The teacher's outputs are computed once and kept, unless views or the data differ each time.

    Args:
        options: which loss between which outputs.
        recovery: student and teacher.
        source: inputs.
        order: int64 indices of the inputs that will be used.
        views: of each batch.
        precision: ``float32`` or ``bfloat16`` (autocast), of the student.
        student: what runs in its place, for example a replica; ``None``: itself.
    """

    def __init__(
        self,
        options: MimicOptions,
        recovery: Recovery,
        source: Source,
        order: Tensor,
        views: Views,
        precision: str,
        student: nn.Module | None = None,
    ) -> None:
        self.student = recovery.student if student is None else student
        self.options, self.recovery, self.views, self.precision = options, recovery, views, precision
        self.device = device_of(recovery.student)
        self.targets: TeacherOutputs | None = None
        if views.plain:
            self.targets = TeacherOutputs.keep(
                recovery.teacher, source, order, options.output, recovery.workdir, recovery.cache, recovery.events
            )

    def run(self, indices: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """The loss (float32, 0-dim), and the student's outputs, for one batch of samples ``indices``."""
        options = self.options
        inputs = self.views(batch.to(self.device, channels_last=options.channels_last))
        if self.targets is not None:
            wanted = self.targets.rows(indices, self.device)
        else:
            with torch.no_grad():
                wanted = output_tensors(inputs.run(self.recovery.teacher), options.output)
        with self._autocast():
            found = output_tensors(inputs.run(self.student), options.output)
        losses = [distance(ours.float(), theirs.float(), options) for ours, theirs in zip(found, wanted, strict=True)]
        return torch.stack(losses).mean(), found

    def close(self) -> None:
        """Drop the kept outputs, unless a cache holds them for other runs."""
        if self.targets is not None and self.recovery.cache is None:
            self.targets.close()

    def _autocast(self) -> Any:
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


def distance(student: Tensor, teacher: Tensor, options: MimicOptions) -> Tensor:
    """The loss between two float32 outputs of the same shape; 0-dim.

    Raises:
        RecoveryError: the loss needs classes, and the output has none.
    """
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


def _shifted(x: Tensor, where: list[float]) -> Tensor:
    height, width = x.shape[-2:]
    top, left = max(1, height // 8), max(1, width // 8)
    padded = F.pad(x, (left, left, top, top), mode="replicate")
    down, right = int(where[0] * (2 * top + 1)), int(where[1] * (2 * left + 1))
    return padded[..., down : down + height, right : right + width]
