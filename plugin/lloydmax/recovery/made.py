"""What a run goes on where no inputs are given, or few words: made ones, or what is usual."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from lloydmax.data import Batch, Source
from lloydmax.data.inputs import Inputs
from lloydmax.data.sources import ArraySource
from lloydmax.errors import DataError
from lloydmax.hooks.events import Events
from lloydmax.hooks.time_limit import TimeLimit
from lloydmax.plan.plan import Plan
from lloydmax.recipe.recipe import Recipe
from lloydmax.teacher import made
from lloydmax.teacher.asking import Wanted

_SHARE = 0.3
"""Of the time of a run, what goes into its inputs at most."""
_PLACES, _FEW = 4, 4096
"""Places for each input of the widest layer: fewer tell too little of how its inputs go together, more do not."""


def made_inputs(
    teacher: nn.Module, recipe: Recipe, example_inputs: Any, seed: int, events: Events, limit: TimeLimit
) -> tuple[Source | None, Source | None]:
    """Inputs of two kinds as a recipe asks for them; ``None`` where it does not.

    Raises:
        DataError: none can be made.
    """
    if recipe.synthesize is None:
        return None, None
    try:
        over = partial(limit.share(_SHARE, "make inputs"), "pictures are less like those of the training")
        return made.sources(teacher, recipe.synthesize.given(), example_inputs, seed, events, over)
    except DataError as error:
        raise DataError(f"{recipe.at('synthesize')}: {error}") from None


def beside_few(teacher: nn.Module, parts: tuple[Source, Source], seed: int, events: Events) -> tuple[Source, Source]:
    """Inputs to work with and to judge by, and beside whole numbers at few places those that would be made without
    any: they tell too little of layers that are wide. Other inputs stay alone: made ones are less like them.

    Args:
        teacher: the original.
        parts: of the inputs that were given.
        seed: of what is made.
        events: where progress is reported.
    """
    if any(len(part) > _FEW for part in parts):
        return parts
    given = [part.first(len(part)) for part in parts]
    tensors = [tensor for batch in given for tensor in batch.tensors() if tensor.ndim]
    numbers = not any(batch.whole for batch in given) and not any(t.is_floating_point() for t in tensors)
    widest = max((p[0].numel() for p in teacher.parameters() if p.dim() > 1 and len(p)), default=0)
    if not numbers or max(tensor.numel() for tensor in given[0].tensors()) > min(_FEW, _PLACES * widest):
        return parts
    examples: Any = given[0].kwargs if given[0].kwargs and not given[0].args else given[0].args
    try:
        others = made.sources(teacher, Wanted(), examples, seed, events)
    except DataError:
        return parts
    joined = [_joined(one, other.first(len(other))) for one, other in zip(given, others, strict=True)]
    inputs = Inputs(teacher)
    return tuple(  # type: ignore[return-value]
        part
        if batch is None
        else ArraySource(batch, inputs, f"({part.describe()}, and {len(batch) - len(part)} made ones)")
        for part, batch in zip(parts, joined, strict=True)
    )


def _joined(one: Batch, other: Batch) -> Batch | None:
    """The samples of two batches; ``None`` where they are not alike, or some of it is padding."""
    pairs = list(zip(one.tensors(), other.tensors(), strict=False))
    if (
        one.beside
        or other.beside
        or len(pairs) != len(list(one.tensors()))
        or any(a.shape[1:] != b.shape[1:] or a.dtype != b.dtype for a, b in pairs)
    ):
        return None
    others = iter(other.tensors())
    return one.map(lambda tensor: torch.cat([tensor, next(others).to(tensor.device)]) if tensor.ndim else tensor)


def unknown(plan: Plan, source: Source | None) -> list[str]:
    """That bits went where they usually matter, for want of inputs that would tell where."""
    weighed = any(p.importance is not None for p in plan.parameters.values())
    if plan.recipe.bits is None or weighed or source is not None:
        return []
    return [
        "no inputs were given, and the recipe makes none: weights count by what is usual for their depth and width, "
        "not by what they do to the outputs; give data=..., or recipe_for(..., example_inputs=...)"
    ]
