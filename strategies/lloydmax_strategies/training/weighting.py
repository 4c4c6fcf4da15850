"""Samples that count more or less, by how sure the teacher is of them."""

from __future__ import annotations

from collections.abc import Sequence

from lloydmax import RecoveryError
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

MOST = 10.0
"""Times the mean that one sample may weigh."""


class WeightingOptions(BaseModel):
    """Options of the weights of samples."""

    model_config = ConfigDict(extra="forbid")

    confidence: float = Field(
        default=0.0,
        ge=-4,
        le=4,
        description="exponent, -4 to 4, of the teacher's largest probability, which weights the loss of each sample: "
        "above 0 sure samples count more, below 0 unsure ones. The weights have mean 1 over the batch, and none is "
        "above 10. 0: all count alike.",
    )


def confidence_weights(outputs: Sequence[Tensor], exponent: float, axes: Sequence[int | None]) -> Tensor:
    """Weights of the samples of a batch, float32 ``(N,)``, of mean 1 before they are cut at :data:`MOST`.

    Args:
        outputs: the teacher's; the first with classes decides. Where a sample has several decisions (a segmentation, a
            sequence), their mean confidence counts.
        exponent: see :class:`WeightingOptions`.
        axes: of the classes of each output; ``None``: it has none.

    Raises:
        RecoveryError: no output has classes.
    """
    for scores, axis in zip(outputs, axes, strict=True):
        if axis is not None:
            sure = scores.float().softmax(axis).amax(axis)
            weights = sure.reshape(len(sure), -1).mean(1) ** exponent
            return (weights / weights.mean()).clamp(max=MOST)
    shapes = ", ".join(str(tuple(scores.shape)) for scores in outputs)
    raise RecoveryError(f"'confidence' needs an output with classes, got shapes {shapes}: set it to 0")
