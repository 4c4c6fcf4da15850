"""The Fisher information of a teacher's outputs, drawn at random."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lloydmax.network.outputs import Leaf, class_axis, comparable, in_parts

_WHOLE = Leaf(())
_SURE = 1e-2
"""The least score that counts."""


def fisher_draw(outputs: Sequence[Tensor], generator: torch.Generator, leaves: Sequence[Leaf] | None = None) -> Tensor:
    """A random scalar whose gradient ``g`` has ``E[g g^T]`` the curvature of what people see of the outputs, each of
    which counts alike, whatever it tells, by the mean over what it tells of one sample:

    - classes: the Fisher information of a decision, so that the curvature is that of the KL divergence;
    - independent scores: the same of a yes or no, ``1 / (p (1 - p))``;
    - quantities, and what is unclear: that of half the squared difference over the variance.

    Args:
        outputs: floating, with gradients, ``(N, ...)`` each.
        generator: on the CPU; draws the signs.
        leaves: what each of them tells; ``None``: classes where :func:`class_axis` has them.
    """
    if leaves is None:
        leaves = [Leaf((), kind="unclear" if class_axis(output) is None else "classes") for output in outputs]
    drawn = [_drawn(output, leaf, generator) for output, leaf in zip(outputs, leaves, strict=True)]
    return torch.stack([scalar for scalar in drawn if scalar.requires_grad] or drawn).sum()


def _drawn(output: Tensor, leaf: Leaf, generator: torch.Generator) -> Tensor:
    each = max(1.0, output.numel() / max(1, len(output)))
    if leaf.decides and (axis := class_axis(output)) is not None:
        return _of_classes(leaf.logits(_finite(output)), axis, generator) * math.sqrt(output.shape[axis] / each)
    values, signs = _finite(output).float(), _signs(output, generator)
    if leaf.kind == "scores":
        q = unsure(leaf.probabilities(values))
        p = q.detach()
        return (q * signs / (p * (1 - p)).sqrt()).sum() / math.sqrt(each)
    return (values * signs).sum() / (leaf.spread * math.sqrt(each))


def _of_classes(scores: Tensor, axis: int, generator: torch.Generator) -> Tensor:
    """With signs ``s`` and probabilities ``p``, ``v = sqrt(p) s - p (sqrt(p) . s)`` has the covariance
    ``diag(p) - p p^T``, that of the gradient of the log-likelihood of a label drawn from ``p``."""
    drawn = torch.empty_like(scores, requires_grad=False, memory_format=torch.contiguous_format)
    for values, rows in in_parts(_WHOLE, scores.detach(), drawn):
        at = class_axis(values)
        assert at is not None
        p = values.softmax(at)
        spread = p.sqrt().mul_(_signs(p, generator))
        torch.sub(spread, p * spread.sum(at, keepdim=True), out=rows)
    return torch.dot(scores.reshape(-1), drawn.reshape(-1))


def gauss_newton_draw(outputs: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """A random scalar whose gradient ``g`` has ``E[g g^T]`` the Gauss-Newton matrix of all outputs, summed over values.

    Args:
        outputs: floating, with gradients.
        generator: on the CPU; draws the signs.
    """
    return torch.stack([(_finite(o).float() * _signs(o, generator)).sum() for o in outputs]).sum()


def fisher_draws(
    outputs: Sequence[Tensor], generator: torch.Generator, leaves: Sequence[Leaf] | None = None
) -> Iterator[Tensor]:
    """Two random scalars whose gradients ``g`` have ``E[g g^T]`` the Fisher information of the classes (summed over
    decisions), and the Gauss-Newton matrix of all outputs (summed over values).

    Args:
        outputs: floating, with gradients.
        generator: on the CPU; draws the signs.
        leaves: what each of them tells; the first with classes counts. ``None``: where :func:`class_axis` has them.
    """
    leaves = [Leaf(()) for _ in outputs] if leaves is None else leaves
    told = ((o, leaf, class_axis(o)) for o, leaf in zip(outputs, leaves, strict=True) if leaf.classes is not None)
    scores = next(((output, leaf, axis) for output, leaf, axis in told if axis is not None), None)
    if scores is None:
        yield torch.stack([output.sum() * 0.0 for output in outputs if output.requires_grad]).sum()
    else:
        output, leaf, axis = scores
        yield _of_classes(leaf.logits(_finite(output)), axis, generator)
    yield gauss_newton_draw(outputs, generator)


def unsure(scores: Tensor) -> Tensor:
    """Independent scores brought a little towards one half, so that those near 0 and 1 do not count without limit."""
    return _SURE + (1 - 2 * _SURE) * scores.clamp(0, 1)


def _finite(output: Tensor) -> Tensor:
    return comparable(output, output)[0]


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like.device, torch.float32)
