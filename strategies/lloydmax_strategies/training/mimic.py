"""What a student mimics: the teacher's outputs for the inputs of one source, and the distance to them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from lloydmax import RecoveryError
from lloydmax.extend import Batch, Leaf, Recovery, Targets, comparable, differences, divergences
from torch import Tensor, nn

from lloydmax_strategies.training.features import Features
from lloydmax_strategies.training.views import Views
from lloydmax_strategies.training.weighting import confidence_weights


class MimicOptions(Protocol):
    """The options that matter here; see :class:`lloydmax_strategies.training.loop.TrainingOptions`."""

    loss: Literal["mse", "kl", "cosine", "l1", "auto"]
    temperature: float
    channels_last: bool
    confidence: float
    features: float


class Mimic:
    """The same inputs through student and teacher, and the loss between their outputs.

    Args:
        options: which loss between which outputs.
        recovery: student and teacher.
        targets: what the teacher gives.
        views: of each batch.
        precision: ``float32`` or ``bfloat16`` (autocast).
    """

    def __init__(
        self, options: MimicOptions, recovery: Recovery, targets: Targets, views: Views, precision: str
    ) -> None:
        self.options, self.targets, self.views, self.precision = options, targets, views, precision
        self.device = recovery.device
        self.features = Features(recovery.student, recovery.teacher) if options.features else None

    def run(self, student: nn.Module, indices: Tensor, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
        """For one batch of samples, the losses (float32, 0-dim) and the outputs of the student, or its replica.

        ``loss`` is the distance to the teacher's outputs; ``features``, where the option says so, that to its blocks'.
        """
        options, outputs = self.options, self.targets.outputs
        inputs = self.views(batch.to(self.device, channels_last=options.channels_last))
        if self.features is not None:
            self.features.start(inputs)
        with self._autocast():
            wanted = self.targets.of(indices, inputs)
        with self._autocast():
            found = outputs.of(inputs.run(student), inputs, wanted)
        axes = outputs.class_axes(wanted)
        weights = confidence_weights(wanted, options.confidence, axes) if options.confidence else None
        each = zip(found, wanted, axes, outputs.leaves, strict=True)
        losses = [
            distance(ours.float(), theirs.float(), options, axis, leaf, weights) for ours, theirs, axis, leaf in each
        ]
        parts = {"loss": torch.stack(losses).mean()}
        if self.features is not None:
            parts["features"] = options.features * self.features.distance()
        return parts, found

    def close(self) -> None:
        """Stop listening to features."""
        if self.features is not None:
            self.features.close()

    def _autocast(self) -> Any:
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


def distance(
    student: Tensor, teacher: Tensor, options: MimicOptions, axis: int | None, leaf: Leaf, weights: Tensor | None = None
) -> Tensor:
    """The loss between two float32 outputs of the same shape; 0-dim.

    Args:
        student: ``(N, ...)``.
        teacher: likewise.
        options: which loss.
        axis: of the classes; ``None``: there are none.
        leaf: what they tell.
        weights: of the samples, ``(N,)``; ``None``: all count alike.

    Raises:
        RecoveryError: the loss needs classes, and the output has none; or the weights are those of another output.
    """
    apart = _apart(student, teacher, options, axis, leaf)
    if weights is None:
        return apart.mean()
    if len(weights) != len(apart):
        raise RecoveryError(
            f"'confidence' weighs {len(weights)} positions of one output, of which another has {len(apart)}: name one "
            "by 'output'"
        )
    return (weights * apart.reshape(len(apart), -1).mean(1)).mean()


def _apart(student: Tensor, teacher: Tensor, options: MimicOptions, axis: int | None, leaf: Leaf) -> Tensor:
    """The loss of every element or decision, samples along the first axis."""
    if options.loss == "auto":
        return differences(student, teacher, leaf)
    if options.loss != "kl":
        student, teacher = comparable(student, teacher)
    if options.loss == "mse":
        return F.mse_loss(student, teacher, reduction="none")
    if options.loss == "l1":
        return F.l1_loss(student, teacher, reduction="none")
    if axis is None:
        raise RecoveryError(f"loss {options.loss!r} needs an output with classes, got shape {tuple(teacher.shape)}")
    if options.loss == "cosine":
        return 1 - F.cosine_similarity(student, teacher, dim=axis)
    student, teacher = leaf.logits(student), leaf.logits(teacher)
    return options.temperature**2 * divergences(student, teacher, axis, options.temperature)
