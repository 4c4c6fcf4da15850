"""Inputs for a model without data: noise of two kinds, scaled as its first batch norm or examples tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lloydmax.data import Source
from lloydmax.data.batch import Batch
from lloydmax.data.inputs import Inputs
from lloydmax.data.natural import Form, values_of
from lloydmax.data.sources import ArraySource
from lloydmax.errors import DataError
from lloydmax.hooks.events import Events
from lloydmax.network.batch_norm import listening, statistics_gap, tracked
from lloydmax.network.guard import guarded
from lloydmax.runtime.modes import device_of, evaluation_mode
from lloydmax.teacher.asking import Asked, Kind, Wanted, asked

OTHER: dict[Kind, Kind] = {"natural": "noise", "noise": "natural"}
"""The kind on which what was made with a kind is judged."""
MOST_VALUES = 1 << 26
"""Of all samples together; where a sample is large, fewer are made."""
_FEW = 8
"""Samples by which the scale is found."""
_SCALES = ((0.0, 1.0), (0.0, 0.5), (0.0, 0.1), (0.0, 4.0), (0.5, 0.25), (127.0, 64.0))
"""Means and deviations that are tried."""
_STEPS, _RATE = 60, 0.05
_MIXED = 4
"""Channels that are mixed at most: those of pictures are much alike."""
_BRIGHT, _SPREAD = 0.5, 0.25
"""Mean and deviation of values from 0 to 1."""


def sources(
    model: nn.Module,
    wanted: Wanted = Wanted(),  # noqa: B008 - frozen
    example_inputs: Any = None,
    seed: int = 0,
    events: Events | None = None,
) -> tuple[Source, Source]:
    """Made inputs for a model, and half as many of the other kind, on which is judged what was done with them.

    Args:
        model: the teacher, not changed.
        wanted: how many, of which kind and shape.
        example_inputs: see :func:`~lloydmax.teacher.asking.asked`.
        seed: of all values.
        events: where progress is reported.

    Raises:
        DataError: it cannot be told what the model takes.
    """
    events = events or Events()
    with events.stage("make inputs", total=2):
        found = asked(model, example_inputs, wanted)
        if found is None:
            raise DataError(
                f"no inputs can be made for {type(model).__name__}: it takes none of those that its first layers ask "
                "for; pass data=..., or example_inputs=... of the shape and dtype that it takes"
            )
        made = []
        for number, each in enumerate((wanted.kind, OTHER[wanted.kind])):
            count = max(2, min(wanted.samples >> number, MOST_VALUES // max(1, _values(found))))
            batch = _made(model, found, count, each, 2 * seed + number)
            made.append(ArraySource(batch, Inputs(model), f"made without data ({each})"))
            events.step("make inputs", number + 1, 2)
    return made[0], made[1]


def _values(found: Asked) -> int:
    return sum(torch.Size(form.shape).numel() for form in found.forms)


def _made(model: nn.Module, found: Asked, samples: int, kind: Kind, seed: int) -> Batch:
    """A batch of this kind, scaled."""
    generator, forms = Generator().manual_seed(seed % 2**63), found.forms
    raw = [values_of(form, samples, generator, structured=kind == "natural") for form in forms]
    values = [made if form.below is not None else _scaled(form, made) for form, made in zip(forms, raw, strict=True)]
    real = [place for place, form in enumerate(forms) if form.below is None]
    if len(real) == 1 and tracked(model):
        (place,) = real

        def call(few: Tensor) -> Batch:
            given = iter([*(value[: len(few)] for value in values[:place]), few, *values[place + 1 :]])
            return found.filled(lambda form: next(given)[: len(few)], len(few))

        values[place] = _fitted(model, forms[place], raw[place], call, values[place])
    every = iter(values)
    return found.filled(lambda form: next(every), samples)


def _scaled(form: Form, raw: Tensor) -> Tensor:
    """As in the examples; where there were none, half of the samples normalized, the others from 0 to 1."""
    if form.mean is not None and form.deviation is not None:
        return raw * form.deviation + form.mean
    made = raw.clone()
    made[1::2] = (_BRIGHT + _SPREAD * raw[1::2]).clamp(0, 1)
    return made


def _fitted(model: nn.Module, form: Form, raw: Tensor, call: Callable[[Tensor], Batch], usual: Tensor) -> Tensor:
    """Values whose channels are shifted and mixed so that the first batch norm gets the statistics that it keeps;
    ``usual`` where no batch norm is reached."""
    channels = form.split(raw)
    few, width = channels[:_FEW], form.width
    axes = (1, width, *(1,) * (channels.dim() - 2))

    def gap(values: Tensor) -> Tensor | None:
        return _first_gap(model, call(form.joined(values).to(raw.dtype)))

    with torch.no_grad():
        gaps = [gap(few * deviation + mean) for mean, deviation in _SCALES]
    if any(found is None for found in gaps):
        return usual
    mean, deviation = _SCALES[min(range(len(gaps)), key=lambda place: _finite(gaps[place]))]
    mix = (torch.eye(width) if width <= _MIXED else torch.ones(width)).requires_grad_()
    shift = torch.zeros(width, requires_grad=True)

    def mixed(values: Tensor) -> Tensor:
        turned = torch.einsum("dc,nc...->nd...", mix, values) if mix.dim() == 2 else values * mix.reshape(axes)
        return (turned + shift.reshape(axes)) * deviation + mean

    optimizer = torch.optim.Adam([mix, shift], _RATE)
    for _ in range(_STEPS):
        found = gap(mixed(few))
        if found is None or not torch.isfinite(found):
            return usual
        mix.grad, shift.grad = torch.autograd.grad(found, [mix, shift])
        optimizer.step()
    with torch.no_grad():
        return form.joined(mixed(channels)).to(raw.dtype)


def _finite(gap: Tensor | None) -> float:
    return math.inf if gap is None or not torch.isfinite(gap) else float(gap)


class _Reached(BaseException):
    """Ends a forward pass."""


def _first_gap(model: nn.Module, batch: Batch) -> Tensor | None:
    """How far a batch is from the statistics of the first batch norm that it reaches; ``None``: it reaches none."""
    gaps: list[Tensor] = []

    def hear(name: str, norm: _BatchNorm, inputs: Tensor) -> None:
        gaps.append(statistics_gap(inputs, norm))
        raise _Reached

    dtype = Inputs(model).dtype
    batch = batch.map(lambda t: t.to(dtype) if t.is_floating_point() and dtype is not None else t)
    with evaluation_mode(model), listening(model, hear), suppress(_Reached):
        guarded(model, lambda: batch.to(device_of(model)).run(model))
    return gaps[0] if gaps else None
