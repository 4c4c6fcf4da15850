"""What outputs tell: classes, independent scores or quantities, found from what a teacher gives for some inputs.

A softmax of trained scores is far from uniform, and cross-entropy never moves the sum of all scores: its gradients add
up to zero. So the mean of the scores of classes varies far less than that of as many independent quantities.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from lloydmax.network.outputs import Auto, Leaf, class_axis

_MOST_PARTS = 8
_FAR, _NEAR = 8.0, 4.0
"""Ratio of standard deviations from which neighbours, and whole parts, are of different kinds."""
_LONGEST = 4096
_ROUNDING = 1e-4
_EXACT = 2e-3
"""How far from 1 probabilities of classes may add up to: bfloat16 has three digits."""
_TELLING = 0.9
"""Of the largest entropy: scores above it do not tell classes apart."""
_WIDEST = 50.0
"""Standard deviation of scores before a softmax; quantities in pixels have more."""
_COMMON = 0.5
"""Variance of the mean of scores of classes, over that of as many independent quantities."""
_DECISIONS = 8
"""So many are needed to tell how the mean of the scores varies."""
_UNDECIDED = 0.1
"""Mean of ``p (1 - p)`` of scores that say yes or no; colours have more."""


def kinds(leaf: Leaf, tensor: Tensor, vocabularies: Collection[int] = ()) -> list[Leaf]:
    """The parts of one output, each with what it tells.

    Args:
        leaf: that is not divided yet; its ``classes`` are believed where they are not ``"auto"``.
        tensor: what it reads for some samples, ``(N, ...)``; the more, the surer.
        vocabularies: numbers of tokens that the model knows, see :func:`vocabularies_of`.
    """
    values = tensor.detach().float()
    whole = _told(leaf, values, vocabularies)
    if whole.kind == "classes" or not (parts := _parts(values)):
        return [whole]
    return [
        _told(replace(leaf, classes=None, part=part), values.narrow(part[0], part[1], part[2] - part[1]), ())
        for part in parts
    ]


def vocabularies_of(model: nn.Module) -> set[int]:
    """How many tokens the embeddings of a model know."""
    return {module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)}


def _told(leaf: Leaf, values: Tensor, vocabularies: Collection[int]) -> Leaf:
    finite = values[torch.isfinite(values)]
    if not len(finite):
        return leaf
    leaf = replace(leaf, spread=float(finite.double().std(correction=0)) or float(finite.abs().max()) or 1.0)
    if isinstance(leaf.classes, int):
        return replace(leaf, kind="classes", normal=_normal(values, class_axis(values)))
    if leaf.classes is not None:
        for axis in _axes(values):
            normal = _normal(values, axis)
            if normal or values.shape[axis] in vocabularies or _normal(values.exp(), axis):
                return replace(leaf, kind="classes", normal=normal, classes=_as_returned(leaf, values, axis))
    if bool((finite >= 0).all()) and bool((finite <= 1).all()):
        decided = float((finite * (1 - finite)).mean()) < _UNDECIDED
        return replace(leaf, kind="scores" if decided else "values")
    axes = [] if leaf.classes is None else _axes(values)
    for axis in axes:
        if _decides(values, axis):
            return replace(leaf, kind="classes", classes=_as_returned(leaf, values, axis))
    return replace(leaf, kind="unclear" if axes else "values")


def _axes(values: Tensor) -> list[int]:
    """Those along which classes may be, the usual one first."""
    usual = class_axis(values)
    others = [axis for axis in range(1, values.dim()) if axis != usual and values.shape[axis] > 1]
    return others if usual is None else [usual, *others]


def _as_returned(leaf: Leaf, values: Tensor, axis: int) -> int | Auto:
    """The axis as the model returns it."""
    if axis == class_axis(values):
        return "auto"
    return axis - 1 if axis <= (leaf.samples or 0) else axis


def _normal(values: Tensor, axis: int | None) -> bool:
    """Whether they are probabilities of classes."""
    if axis is None or not bool(((values >= 0) & (values <= 1 + _EXACT)).all()):
        return False
    return bool(((values.sum(axis) - 1).abs() < _EXACT).all())


def _decides(values: Tensor, axis: int) -> bool:
    """Whether they are scores of classes before a softmax."""
    classes = values.shape[axis]
    rows = values.movedim(axis, -1).reshape(-1, classes)
    rows = rows[torch.isfinite(rows).all(1)].double()
    if not len(rows):
        return True
    entropy = float(torch.special.entr(rows.softmax(1)).sum(1).mean())
    if entropy > _TELLING * math.log(classes) or float(rows.std(correction=0)) > _WIDEST:
        return False
    if len(rows) < _DECISIONS:
        return True
    own = float(rows.var(0).mean())
    return own > 0 and classes * float(rows.mean(1).var()) <= _COMMON * own


def _parts(values: Tensor) -> list[tuple[int, int, int]]:
    """Slices along one axis whose values are of different kinds; none where all are of one."""
    best: list[tuple[int, int, int]] = []
    contrast = _NEAR
    for axis in range(1, values.dim()):
        if 2 <= values.shape[axis] <= _LONGEST:
            rows = values.movedim(axis, 0).reshape(values.shape[axis], -1)
            found = list(_runs(rows))
            deviations = [_deviation(rows[first:end]) for first, end in found]
            if 2 <= len(found) <= _MOST_PARTS and max(deviations) >= contrast * max(min(deviations), 1e-30):
                best, contrast = [(axis, *run) for run in found], max(deviations) / max(min(deviations), 1e-30)
    return best


def _runs(rows: Tensor) -> Iterator[tuple[int, int]]:
    """Neighbours that are alike, as ranges."""
    if not bool(torch.isfinite(rows).all()):
        yield 0, len(rows)
        return
    bounded = (rows.amin(1) >= 0) & (rows.amax(1) <= 1)
    deviations = rows.double().std(1, correction=0)
    edges = [0]
    for n in range(1, len(rows)):
        low, high = sorted((float(deviations[n - 1]), float(deviations[n])))
        same = bool(bounded[n] == bounded[n - 1])
        if not same or (not bool(bounded[n]) and low > 0 and high > _FAR * low):
            edges.append(n)
            if len(edges) > 4 * _MOST_PARTS:
                yield 0, len(rows)
                return
    yield from _merged(rows, [*edges, len(rows)])


def _merged(rows: Tensor, edges: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The same without boundaries between neighbours that deviate nearly alike."""
    start = edges[0]
    for middle, end in pairwise(edges[1:]):
        low, high = sorted((_deviation(rows[start:middle]), _deviation(rows[middle:end])))
        if 0 < low <= high / _NEAR and _varies(rows[start:middle]) and _varies(rows[middle:end]):
            yield start, middle
            start = middle
    yield start, edges[-1]


def _varies(rows: Tensor) -> bool:
    """Whether they differ by more than rounding does."""
    return _deviation(rows) > _ROUNDING * float(rows.double().square().mean().sqrt())


def _deviation(rows: Tensor) -> float:
    """Root of the mean variance of the rows."""
    return math.sqrt(float(rows.double().var(1, correction=0).mean()))
