"""What outputs tell: classes, independent scores, quantities or text, found from what a teacher gives for some inputs.

A softmax of trained scores is far from uniform, and cross-entropy never moves the sum of all scores: its gradients add
up to zero. So the mean of the scores of classes varies far less than that of as many independent quantities.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise

import torch
from torch import Tensor, nn

from lloydmax.errors import RecoveryError
from lloydmax.network.kinds import Named, Word
from lloydmax.network.outputs import Auto, Leaf, class_axis

_MOST_PARTS = 8
_FAR, _NEAR = 8.0, 4.0
"""Ratio of standard deviations from which neighbours, and whole parts, are of different kinds."""
_LONGEST = 4096
_ROUNDING, _DEAD = 1e-4, 1e-7
_EXACT = 2e-3
"""How far from 1 probabilities of classes may add up to: bfloat16 has three digits."""
_TELLING = 0.9
"""Of the largest entropy: scores above it do not tell classes apart."""
_WIDEST = 50.0
"""Standard deviation of scores before a softmax; quantities in pixels have more."""
_COMMON = 0.5
"""Variance of the mean of scores of classes, over that of as many independent quantities."""
_MOST_COMMON, _MANY, _OUT = 4.0, 20, 1.5
"""The same where one of so many scores stands out: so much larger than among normal numbers, and than the least."""
_DECISIONS = 8
"""So many are needed to tell how the mean of the scores varies."""
_UNDECIDED = 0.1
"""Mean of ``p (1 - p)`` of scores that say yes or no; colours have more."""
_BLANK, _LONG, _LETTERS = 0.2, 3, 8
"""Of a text: share of blank places at least, places that a letter takes at most, and letters that there are."""
_SHORT = 2
"""Texts, and vectors of length 1, are longer than this."""


def kinds(leaf: Leaf, tensor: Tensor, vocabularies: Collection[int] = (), said: Sequence[Named] = ()) -> list[Leaf]:
    """The parts of one output, each with what it tells; without those that are said not to count.

    Args:
        leaf: that is not divided yet; its ``classes`` are believed where they are not ``"auto"``.
        tensor: what it reads for some samples, ``(N, ...)``; the more, the surer.
        vocabularies: numbers of tokens that the model knows, see :func:`vocabularies_of`.
        said: what is known of it, or of its parts; the last word on a place counts.

    Raises:
        RecoveryError: a part is not within the output.
    """
    values = tensor.detach().float()
    parts = {one.place.part: one for one in said}
    whole = parts.pop(None, None)
    if parts:
        return list(_named_parts(leaf, values, parts, whole))
    if whole is not None:
        return [] if whole.word == "ignore" else [_called(leaf, values, whole.word, vocabularies)]
    found = _told(leaf, values, vocabularies)
    if found.decides or any(_of_length_one(values, axis) for axis in _axes(values)):
        return [found]
    return [_told_part(leaf, values, part) for part in _parts(values)] or [found]


def vocabularies_of(model: nn.Module) -> set[int]:
    """How many tokens the embeddings of a model know."""
    return {module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)}


def _narrow(values: Tensor, part: tuple[int, int, int]) -> Tensor:
    axis, first, end = part
    return values.narrow(axis, first, end - first)


def _named_parts(
    leaf: Leaf, values: Tensor, parts: Mapping[tuple[int, int, int] | None, Named], whole: Named | None
) -> Iterator[Leaf]:
    """The parts that are named, and what lies between them."""
    known = sorted(part for part in parts if part is not None)
    axis, _, last = known[-1]
    shape = tuple(values.shape)
    if axis >= values.dim() or last > shape[axis]:
        raise RecoveryError(f"{parts[known[-1]].place} is not within the output, which has shape {shape}")
    edges = sorted({0, shape[axis], *(edge for _, *ends in known for edge in ends)})
    for part in ((axis, first, end) for first, end in pairwise(edges)):
        one, held = parts.get(part, whole), _narrow(values, part)
        if one is None:
            yield _told_part(leaf, values, part)
        elif one.word != "ignore":
            yield _called(replace(leaf, part=part), held, one.word, ())


def _told_part(leaf: Leaf, values: Tensor, part: tuple[int, int, int]) -> Leaf:
    """One of several parts: classes only where they are probabilities, along the axis that is divided."""
    held = _narrow(values, part)
    if _normal(held, part[0]):
        return _of_classes(replace(_measured(leaf, held), part=part), held, part[0], False)
    return _told(replace(leaf, classes=None, part=part), held, ())


def _called(leaf: Leaf, values: Tensor, word: Word, vocabularies: Collection[int]) -> Leaf:
    """An output of a known kind."""
    assert word != "ignore"
    leaf = _measured(leaf, values)
    if word in ("classes", "text"):
        axes = [class_axis(values)] if isinstance(leaf.classes, int) else _axes(values)
        sure = (a for a in axes if a is not None and (_normal(values, a) or values.shape[a] in vocabularies))
        likely = (a for a in axes if a is not None and _decides(values, a))
        axis = next(chain(sure, likely, axes), None)
        if axis is None:
            raise RecoveryError(f"{leaf.place} has shape {tuple(values.shape)}: there are no classes to choose from")
        return _of_classes(leaf, values, axis, word == "text")
    if word == "scores":
        return _of_scores(replace(leaf, classes=None), values)
    return replace(leaf, kind=word, classes="auto" if leaf.part is None else None)


def _told(leaf: Leaf, values: Tensor, vocabularies: Collection[int]) -> Leaf:
    finite = values[torch.isfinite(values)]
    if not len(finite):
        return leaf
    leaf = _measured(leaf, values)
    if isinstance(leaf.classes, int):
        return _of_classes(leaf, values, class_axis(values), _is_text(values, class_axis(values)) and not vocabularies)
    if leaf.classes is not None:
        for axis in _axes(values):
            if _normal(values, axis) or values.shape[axis] in vocabularies or _normal(values.exp(), axis):
                return _of_classes(leaf, values, axis, _is_text(values, axis) and not vocabularies)
        if any(_of_length_one(values, axis) for axis in _axes(values)):
            return replace(leaf, kind="values")
    if bool((finite >= 0).all()) and bool((finite <= 1).all()):
        decided = float((finite * (1 - finite)).mean()) < _UNDECIDED
        return _of_scores(leaf, values) if decided else replace(leaf, kind="values")
    axes = [] if leaf.classes is None else _axes(values)
    for axis in axes:
        if _decides(values, axis):
            return _of_classes(leaf, values, axis, _is_text(values, axis) and not vocabularies)
    return replace(leaf, kind="unclear" if axes else "values")


def _measured(leaf: Leaf, values: Tensor) -> Leaf:
    finite = values[torch.isfinite(values)]
    if not len(finite):
        return leaf
    return replace(leaf, spread=float(finite.double().std(correction=0)) or float(finite.abs().max()) or 1.0)


def _of_classes(leaf: Leaf, values: Tensor, axis: int | None, text: bool) -> Leaf:
    """Classes along an axis; ``None``: there is only one."""
    leaf = replace(leaf, kind="text" if text else "classes", normal=_normal(values, axis))
    if not isinstance(leaf.classes, int) and axis is not None:
        leaf = replace(leaf, classes=_as_returned(leaf, values, axis))
    return replace(leaf, blank=_blank(values, axis)) if text and axis is not None else leaf


def _of_scores(leaf: Leaf, values: Tensor) -> Leaf:
    """Independent scores; where none is above one half, those above half the largest one say yes."""
    finite = values[torch.isfinite(values)]
    leaf = replace(leaf, kind="scores", normal=bool(((finite >= 0) & (finite <= 1)).all()))
    largest = float(leaf.probabilities(finite).max()) if len(finite) else 1.0
    return replace(leaf, high=0.5 if largest >= 0.5 else largest / 2)


def _blank(values: Tensor, axis: int) -> int | None:
    """The class, first or last, that stands between letters, where one does (Graves et al. 2006)."""
    chosen, last = values.argmax(axis), values.shape[axis] - 1
    shares = {place: float((chosen == place).float().mean()) for place in (0, last)}
    best = max(shares, key=lambda place: shares[place])
    return best if shares[best] >= _BLANK else None


def _is_text(values: Tensor, axis: int | None) -> bool:
    """Whether letters stand alone between blanks."""
    if axis is None or values.dim() != 3 or values.shape[3 - axis] <= _SHORT:
        return False
    if (blank := _blank(values, axis)) is None:
        return False
    chosen = values.argmax(axis)
    letters = int((chosen != blank).sum())
    starts = int((chosen[:, 0] != blank).sum() + ((chosen[:, 1:] != blank) & (chosen[:, 1:] != chosen[:, :-1])).sum())
    return values.shape[axis] >= _LETTERS and letters > 0 and letters < _LONG * starts


def _of_length_one(values: Tensor, axis: int) -> bool:
    return values.shape[axis] > _SHORT and bool(((values.norm(dim=axis) - 1).abs() < _EXACT).all())


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
    own, common = float(rows.var(0).mean()), classes * float(rows.mean(1).var())
    return own > 0 and (common <= _COMMON * own or (common <= _MOST_COMMON * own and _stands_out(rows)))


def _stands_out(rows: Tensor) -> bool:
    """Whether one of many scores is far above the others, and none far below."""
    moved = rows - rows.mean(0)
    deviation, mean = moved.std(1).clamp(min=1e-30), moved.mean(1)
    above, below = (moved.amax(1) - mean) / deviation, (mean - moved.amin(1)) / deviation
    usual = math.sqrt(2 * math.log(rows.shape[1]))  # the largest of as many normal numbers
    return (
        rows.shape[1] >= _MANY
        and bool((rows < 0).any())
        and float(above.mean()) > _OUT * max(usual, float(below.mean()))
        and len(rows.argmax(1).unique()) > len(rows) // _MOST_PARTS
    )


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
    """The same without boundaries between neighbours that deviate nearly alike, or around what is nearly constant."""
    start, least = edges[0], _DEAD * float(rows.double().square().mean().sqrt())
    for middle, end in pairwise(edges[1:]):
        low, high = sorted((_deviation(rows[start:middle]), _deviation(rows[middle:end])))
        if least < low <= high / _NEAR and _varies(rows[start:middle]) and _varies(rows[middle:end]):
            yield start, middle
            start = middle
    yield start, edges[-1]


def _varies(rows: Tensor) -> bool:
    """Whether they differ by more than rounding does."""
    return _deviation(rows) > _ROUNDING * float(rows.double().square().mean().sqrt())


def _deviation(rows: Tensor) -> float:
    """Root of the mean variance of the rows."""
    return math.sqrt(float(rows.double().var(1, correction=0).mean()))
