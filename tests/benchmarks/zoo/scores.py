"""How alike the outputs of a student and of the original are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

IOU = 0.5
"""Of two boxes that are the same."""


def same_class(found: Tensor, wanted: Tensor) -> float:
    """Share of inputs with the same largest of ``(N, classes)``."""
    return (found.argmax(1) == wanted.argmax(1)).double().mean().item()


def accuracy(labels: Tensor) -> Callable[[Tensor], float]:
    """Share of inputs whose largest of ``(N, classes)`` is the label."""
    return lambda found: (found.argmax(1) == labels).double().mean().item()


def cosine(found: Tensor, wanted: Tensor) -> float:
    """Mean cosine of the vectors of an input."""
    return torch.cosine_similarity(found.flatten(1).double(), wanted.flatten(1).double()).mean().item()


def decibels(peak: float | None = None) -> Callable[[Tensor, Tensor], float]:
    """Ratio of ``peak`` (none: of the original's own deviation) to the error, in dB; at most 100."""

    def ratio(found: Tensor, wanted: Tensor) -> float:
        signal = wanted.double().var() if peak is None else torch.tensor(peak**2, dtype=torch.double)
        error = (found.double() - wanted.double()).square().mean()
        return min(100.0, (10 * (signal / error.clamp(min=1e-30)).log10()).item())

    return ratio


def same_marks(threshold: float) -> Callable[[Tensor, Tensor], float]:
    """F1 of what is above a threshold."""

    def f1(found: Tensor, wanted: Tensor) -> float:
        ours, theirs = found > threshold, wanted > threshold
        both = (ours & theirs).sum().item()
        return 2 * both / max(1, (ours.sum() + theirs.sum()).item())

    return f1


def same_sequence(read: Callable[[Tensor], list[Any]]) -> Callable[[Tensor, Tensor], float]:
    """Share of inputs for which the same is read."""

    def share(found: Tensor, wanted: Tensor) -> float:
        pairs = list(zip(read(found), read(wanted), strict=True))
        return sum(ours == theirs for ours, theirs in pairs) / len(pairs)

    return share


def ctc(probabilities: Tensor) -> list[list[int]]:
    """Characters of ``(N, time, characters)``: the largest, repetitions once, blanks (0) not."""
    read = []
    for line in probabilities.argmax(-1).tolist():
        read.append([now for last, now in zip([0, *line], line, strict=False) if now and now != last])
    return read


Boxes = Callable[[Any], list[tuple[Tensor, Tensor, Tensor]]]
"""Outputs -> for each input boxes ``(K, 4)`` (corners), scores ``(K,)`` and classes ``(K,)``."""


def same_boxes(boxes: Boxes, threshold: float) -> Callable[[Any, Any], float]:
    """F1 of boxes with scores above a threshold, after non-maximum suppression: same class, overlap of half or more."""

    def f1(found: Any, wanted: Any) -> float:
        ours, theirs, both = 0, 0, 0
        for mine, other in zip(boxes(found), boxes(wanted), strict=True):
            (a, kinds), (b, wants) = (_kept(*one, threshold) for one in (mine, other))
            ours, theirs = ours + len(a), theirs + len(b)
            if len(a) and len(b):
                overlap = box_iou(a, b) * (kinds[:, None] == wants)
                while overlap.max() >= IOU:
                    row, column = divmod(int(overlap.argmax()), overlap.shape[1])
                    both += 1
                    overlap[row], overlap[:, column] = 0, 0
        return 2 * both / max(1, ours + theirs)

    return f1


def _kept(boxes: Tensor, scores: Tensor, kinds: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    large = (scores > threshold) & boxes.isfinite().all(1)
    boxes, scores, kinds = boxes[large], scores[large], kinds[large]
    apart = boxes + kinds[:, None] * 1e4
    kept = nms(apart, scores, IOU)
    return boxes[kept], kinds[kept]


def corners(centres: Tensor) -> Tensor:
    """``(..., 4)`` of x, y, width, height -> corners."""
    half = centres[..., 2:] / 2
    return torch.cat([centres[..., :2] - half, centres[..., :2] + half], -1)
