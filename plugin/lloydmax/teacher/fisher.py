"""The Fisher information of a teacher's outputs, drawn at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lloydmax.network.outputs import class_axis, comparable


def fisher_draws(
    outputs: Sequence[Tensor], generator: torch.Generator, axes: Sequence[int | None] | None = None
) -> Iterator[Tensor]:
    """Two random scalars whose gradients ``g`` have ``E[g g^T]`` the Fisher information of the classes (summed over
    decisions), and the Gauss-Newton matrix of all outputs (summed over values).

    The first: with signs ``s`` and class probabilities ``p``, ``v = sqrt(p) s - p (sqrt(p) . s)`` has the covariance
    ``diag(p) - p p^T``, that of the gradient of the log-likelihood of a label drawn from ``p``.

    Args:
        outputs: floating, with gradients.
        generator: on the CPU; draws the signs.
        axes: of the classes of each output; ``None``: where :func:`class_axis` has them.
    """
    axes = [class_axis(output) for output in outputs] if axes is None else axes
    scores = next(((output, axis) for output, axis in zip(outputs, axes, strict=True) if axis is not None), None)
    if scores is None:
        yield torch.stack([output.sum() * 0.0 for output in outputs if output.requires_grad]).sum()
    else:
        classes, axis = scores
        p = classes.detach().float().softmax(axis)
        spread = p.sqrt() * _signs(p, generator)
        yield (_finite(classes).float() * (spread - p * spread.sum(axis, keepdim=True))).sum()
    yield torch.stack([(_finite(o).float() * _signs(o, generator)).sum() for o in outputs]).sum()


def _finite(output: Tensor) -> Tensor:
    return comparable(output, output)[0]


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like.device, torch.float32)
