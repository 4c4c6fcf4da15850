"""How alike two models answer, in what each output tells; see :data:`lloydmax.network.kinds.ALIKE`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lloydmax.network.outputs import Leaf, class_axis, comparable


def shared(student: Tensor, teacher: Tensor, leaf: Leaf) -> tuple[float, float]:
    """What two outputs have in common, and the most that they could; both add up over batches.

    - classes: decisions with the same top-1, of all;
    - text: samples with the same text, of all: letters without blanks and repetitions where there is a blank;
    - independent scores: twice those that are high in both, of those that are high in each (the F1 score);
    - quantities, and what is unclear: values less the squared errors over the variance, of all values.

    Args:
        student, teacher: of one shape, samples along the first axis.
        leaf: what they tell.
    """
    if leaf.decides and (axis := class_axis(teacher)) is not None:
        ours, theirs = student.argmax(axis), teacher.argmax(axis)
        if leaf.kind == "text" and theirs.dim() == 2:
            pairs = zip(ours.tolist(), theirs.tolist(), strict=True)
            return float(sum(_text(a, leaf.blank) == _text(b, leaf.blank) for a, b in pairs)), float(len(theirs))
        return float((ours == theirs).sum()), float(theirs.numel())
    student, teacher = (tensor.double() for tensor in comparable(student, teacher))
    if leaf.kind == "scores":
        ours, theirs = (leaf.probabilities(tensor) >= leaf.high for tensor in (student, teacher))
        return 2.0 * float((ours & theirs).sum()), float(ours.sum() + theirs.sum())
    return teacher.numel() - float((student - teacher).square().sum()) / leaf.spread**2, float(teacher.numel())


def _text(letters: Sequence[int], blank: int | None) -> list[int]:
    if blank is None:
        return list(letters)
    return [now for before, now in zip([blank, *letters], letters, strict=False) if now not in (before, blank)]


def share(common: float, most: float) -> float:
    """A part of the whole, 0 to 1; of nothing all, of what is not a number nothing."""
    if not most:
        return 1.0
    return min(1.0, common / most) if common > 0 else 0.0
