"""Which views of pictures a teacher takes for pictures of the same: told by what it answers, without labels.

A view is of use where the teacher answers nearly as before: mirrored photos are photos, mirrored text is not text.
What an output tells of places moves with the picture, so the answers are compared place by place only after sorting.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lloydmax.data import Batch
from lloydmax.network.outputs import Leaf, Outputs, class_axis
from lloydmax.runtime.modes import device_of, evaluating

_MOST = {"resized_crop": 0.55, "flip": 0.35}
"""How far answers may move, as a share of the mean distance between those to different inputs; a crop shows less than
the picture did, a mirror all of it."""
_SIDE = 0.8
"""Of a crop, which is enlarged to the whole."""


def is_picture(x: Tensor) -> bool:
    """Whether it has the form of pictures ``(N, C, H, W)`` that views are made of."""
    return x.dim() == 4 and x.is_floating_point() and min(x.shape[-2:]) > 1


def _flipped(x: Tensor) -> Tensor:
    return x.flip(-1)


def _enlarged(x: Tensor) -> Tensor:
    """One corner of every other picture, the opposite one of the others."""
    height, width = (max(1, round(_SIDE * side)) for side in x.shape[-2:])
    parts = [part[..., :height, :width] if n % 2 else part[..., -height:, -width:] for n, part in enumerate(x.split(1))]
    return F.interpolate(torch.cat(parts).float(), x.shape[-2:], mode="bilinear", align_corners=False).to(x.dtype)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {"resized_crop": _enlarged, "flip": _flipped}
"""By the name that the option ``augment`` has for them."""


def moved(model: nn.Module, outputs: Outputs, batch: Batch) -> dict[str, float]:
    """How far the answers of a teacher move with each of :data:`VIEWS`: the mean squared distance as a share of that
    between the answers to different inputs; of several outputs that of the one which moves most.

    Args:
        model: the teacher, run in evaluation mode without gradients and left as it was.
        outputs: how its outputs are read.
        batch: some inputs, pictures among them; the more, the surer.
    """
    batch = batch.to(device_of(model))
    with evaluating(model):
        before = _answers(model, outputs, batch)
        return {name: _distance(before, _answers(model, outputs, _seen(batch, view))) for name, view in VIEWS.items()}


def views(model: nn.Module, outputs: Outputs, batch: Batch) -> dict[str, Any]:
    """Options of a step that trains on random views: those of :data:`VIEWS` under which the answers of a teacher stay
    nearly as they are. Where they tell of a whole picture, crops and mixtures, too: they may hold less, or something in
    between, and the teacher says what. None where there are no pictures.

    Args:
        model, outputs, batch: see :func:`moved`.
    """
    if not any(map(is_picture, batch.tensors())):
        return {}
    far = moved(model, outputs, batch)
    whole = all(leaf.axes is not None and leaf.axes <= 2 for leaf in outputs.leaves)
    stood = [name for name in far if far[name] <= _MOST[name] or (whole and name == "resized_crop")]
    return ({"augment": stood} if stood else {}) | ({"mixup": 0.2, "cutmix": 1.0} if whole else {})


def _seen(batch: Batch, view: Callable[[Tensor], Tensor]) -> Batch:
    return batch.map(lambda x: view(x) if is_picture(x) else x)


def _answers(model: nn.Module, outputs: Outputs, batch: Batch) -> list[Tensor]:
    """In parts, as ``outputs`` says how many samples a model may be run on at once."""
    found: list[list[Tensor]] = [[] for _ in outputs.leaves]
    for _, part in outputs.parts(torch.arange(len(batch)), batch):
        for tensor, leaf, kept in zip(outputs.read(part.run(model), part), outputs.leaves, found, strict=True):
            kept.append(_answer(tensor, leaf))
    return [torch.cat(kept) for kept in found]


def _answer(tensor: Tensor, leaf: Leaf) -> Tensor:
    """What an output tells, ``(N, kinds of things, places)``, the places of each in order of size."""
    axis = class_axis(tensor)
    if leaf.decides and axis is not None:
        tensor = leaf.logits(tensor).softmax(axis)
    elif leaf.kind == "scores":
        tensor = leaf.probabilities(tensor)
    if tensor.dim() < 2 or axis is None:
        return tensor.double().reshape(len(tensor), 1, -1).sort(-1).values
    return tensor.double().movedim(axis, 1).reshape(len(tensor), tensor.shape[axis], -1).sort(-1).values


def _distance(before: list[Tensor], after: list[Tensor]) -> float:
    if len(before[0]) < 2:
        return math.inf  # nothing to compare with
    shares = [0.0]
    for old, new in zip(before, after, strict=True):
        apart = 2 * float(old.var(0).sum())
        if old.shape == new.shape and apart > 0:
            shares.append(float((new - old).square().sum((1, 2)).mean()) / apart)
    return max(shares)
