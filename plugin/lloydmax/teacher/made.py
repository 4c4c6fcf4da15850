"""Inputs for a model without data: noise of two kinds, scaled as its first batch norm or examples tell, pictures that
match all its batch norms, or texts that it writes itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lloydmax.data import Source
from lloydmax.data.batch import Batch
from lloydmax.data.inputs import Inputs
from lloydmax.data.natural import Form, values_of
from lloydmax.data.sources import ArraySource
from lloydmax.errors import DataError
from lloydmax.hooks.events import Events
from lloydmax.network.batch_norm import tracked
from lloydmax.runtime.modes import evaluation_mode
from lloydmax.teacher.asking import Asked, Kind, Wanted, asked
from lloydmax.teacher.matched import Call, Matching, matched, together
from lloydmax.teacher.scaling import scaled
from lloydmax.teacher.texts import texts, writes

OTHER: dict[Kind, Kind] = {"natural": "noise", "matched": "noise", "noise": "natural", "written": "written"}
"""The kind on which what was made with a kind is judged: nothing is nearer to texts than others that a model wrote."""
MOST_VALUES = 1 << 26
"""Of all samples together; where a sample is large, fewer are made."""


def sources(
    model: nn.Module,
    wanted: Wanted = Wanted(),  # noqa: B008 - frozen
    example_inputs: Any = None,
    seed: int = 0,
    events: Events | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> tuple[Source, Source]:
    """Made inputs for a model, and half as many of the other kind, on which is judged what was done with them.

    Args:
        model: the teacher, not changed.
        wanted: how many, of which kind and shape.
        example_inputs: see :func:`~lloydmax.teacher.asking.asked`.
        seed: of all values.
        events: where progress is reported.
        enough: asked again and again while pictures are matched: whether to end there.

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
        kind = wanted.kind if wanted.kind in possible(model, found) else "natural"
        made = []
        for number, each in enumerate((kind, OTHER[kind])):
            count = max(2, min(wanted.samples >> number, MOST_VALUES // max(1, _values(found))))
            match = partial(_matched, events=events, enough=enough) if kind == "matched" else None
            batch = _made(model, found, count, each, 2 * seed + number, match)
            named = f"{each}, matched" if match and each != kind else each
            made.append(ArraySource(batch, Inputs(model), f"made without data ({named})"))
            made[-1].made = True
            events.step("make inputs", number + 1, 2)
    return made[0], made[1]


def possible(model: nn.Module, found: Asked) -> list[Kind]:
    """The kinds of inputs that can be made for a model, the one that is most like real ones first."""
    kinds: list[Kind] = ["natural", "noise"]
    if writes(model, found):
        return ["written", *kinds]
    pictures = found.only is not None and found.only.below is None and found.only.pictures
    return ["matched", *kinds] if pictures and tracked(model) else kinds


def _values(found: Asked) -> int:
    return sum(torch.Size(form.shape).numel() for form in found.forms)


def _made(
    model: nn.Module, found: Asked, samples: int, kind: Kind, seed: int, match: Callable[..., Tensor] | None
) -> Batch:
    """A batch of this kind, scaled, and moved by ``match``."""
    generator, forms = Generator().manual_seed(seed % 2**63), found.forms
    if kind == "written":
        ids = texts(model, found, samples, generator)
        return found.filled(lambda form: ids, samples)
    values = [values_of(form, samples, generator, structured=kind != "noise") for form in forms]
    real = [place for place, form in enumerate(forms) if form.below is None]
    for place in real:

        def call(few: Tensor, place: int = place) -> Batch:
            given = iter([*values[:place], few, *values[place + 1 :]])
            return found.filled(lambda form: next(given)[: len(few)], len(few))

        values[place] = scaled(model, forms[place], values[place], call, alone=len(real) == 1)
        if match is not None:
            values[place] = match(model, forms[place], values[place], call, generator)
    every = iter(values)
    return found.filled(lambda form: next(every), samples)


def _matched(
    model: nn.Module,
    form: Form,
    values: Tensor,
    call: Call,
    generator: Generator,
    events: Events,
    enough: Callable[[], bool],
) -> Tensor:
    """The same pictures, moved some at a time as all batch norms tell."""
    how, made, pictures = Matching(), [], form.split(values)

    def joined(few: Tensor) -> Batch:
        return call(form.joined(few))

    with evaluation_mode(model):
        at_once = together(model, pictures[:1], joined)
    if not at_once:
        return values
    parts = pictures.tensor_split(-(-len(pictures) // at_once))
    total = how.steps * len(parts)
    with evaluation_mode(model), events.stage("synthesize", total=total):
        for place, part in enumerate(parts):

            def told(step: int, gap: float, before: int = place * how.steps) -> None:
                events.step("synthesize", before + step, total, {"gap": gap})

            made.append(matched(model, part, joined, how, generator, told, enough))
    return form.joined(torch.cat(made))
