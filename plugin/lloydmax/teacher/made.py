"""Inputs for a model without data: noise of two kinds, scaled as its first batch norm or examples tell, or texts that
it writes itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from lloydmax.data import Source
from lloydmax.data.batch import Batch
from lloydmax.data.inputs import Inputs
from lloydmax.data.natural import values_of
from lloydmax.data.sources import ArraySource
from lloydmax.errors import DataError
from lloydmax.hooks.events import Events
from lloydmax.teacher.asking import Asked, Kind, Wanted, asked
from lloydmax.teacher.scaling import scaled
from lloydmax.teacher.texts import texts, writes

OTHER: dict[Kind, Kind] = {"natural": "noise", "noise": "natural", "written": "written"}
"""The kind on which what was made with a kind is judged: nothing is nearer to texts than others that a model wrote."""
MOST_VALUES = 1 << 26
"""Of all samples together; where a sample is large, fewer are made."""


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
        kind = "natural" if wanted.kind == "written" and not writes(model, found) else wanted.kind
        made = []
        for number, each in enumerate((kind, OTHER[kind])):
            count = max(2, min(wanted.samples >> number, MOST_VALUES // max(1, _values(found))))
            batch = _made(model, found, count, each, 2 * seed + number)
            made.append(ArraySource(batch, Inputs(model), f"made without data ({each})"))
            made[-1].made = True
            events.step("make inputs", number + 1, 2)
    return made[0], made[1]


def _values(found: Asked) -> int:
    return sum(torch.Size(form.shape).numel() for form in found.forms)


def _made(model: nn.Module, found: Asked, samples: int, kind: Kind, seed: int) -> Batch:
    """A batch of this kind, scaled."""
    generator, forms = Generator().manual_seed(seed % 2**63), found.forms
    if kind == "written":
        ids = texts(model, found, samples, generator)
        return found.filled(lambda form: ids, samples)
    values = [values_of(form, samples, generator, structured=kind == "natural") for form in forms]
    real = [place for place, form in enumerate(forms) if form.below is None]
    for place in real:

        def call(few: Tensor, place: int = place) -> Batch:
            given = iter([*values[:place], few, *values[place + 1 :]])
            return found.filled(lambda form: next(given)[: len(few)], len(few))

        values[place] = scaled(model, forms[place], values[place], call, alone=len(real) == 1)
    every = iter(values)
    return found.filled(lambda form: next(every), samples)
