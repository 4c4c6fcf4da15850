"""What a run goes on where no inputs are given: made ones, or what is usual."""

from __future__ import annotations

from typing import Any

from torch import nn

from lloydmax.data import Source
from lloydmax.errors import DataError
from lloydmax.hooks.events import Events
from lloydmax.plan.plan import Plan
from lloydmax.recipe.recipe import Recipe
from lloydmax.teacher import made


def made_inputs(
    teacher: nn.Module, recipe: Recipe, example_inputs: Any, seed: int, events: Events
) -> tuple[Source | None, Source | None]:
    """Inputs of two kinds as a recipe asks for them; ``None`` where it does not.

    Raises:
        DataError: none can be made.
    """
    if recipe.synthesize is None:
        return None, None
    try:
        return made.sources(teacher, recipe.synthesize.given(), example_inputs, seed, events)
    except DataError as error:
        raise DataError(f"{recipe.at('synthesize')}: {error}") from None


def unknown(plan: Plan, source: Source | None) -> list[str]:
    """That bits went where they usually matter, for want of inputs that would tell where."""
    weighed = any(p.importance is not None for p in plan.parameters.values())
    if plan.recipe.bits is None or weighed or source is not None:
        return []
    return [
        "no inputs were given, and the recipe makes none: weights count by what is usual for their depth and width, "
        "not by what they do to the outputs; give data=..., or recipe_for(..., example_inputs=...)"
    ]
