"""What a recipe leaves to a tuning loop, and what a trial of Optuna chooses."""

from __future__ import annotations

import json
from typing import Any

from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.recipe.lines import Where, field_name
from lloydmax.recipe.sections import KEEP, RecipeFields, Rule, Step
from lloydmax.recipe.space import Range, Space, is_choice
from lloydmax.runtime.text import quoted

_PLAIN = (type(None), bool, int, float, str)
"""Types of values that Optuna keeps as they are."""


def choices(recipe: RecipeFields) -> Space:
    """What stands where a field takes one value, for tuning loops: place -> alternatives."""
    found = Space(recipe.space_of_fields)
    entries: list[tuple[Where, str, str, Rule | Step]] = [
        *((("quantize", n), "quantizer", rule.quantizer, rule) for n, rule in enumerate(recipe.quantize)),
        *((("recover", n), "step", step.step, step) for n, step in enumerate(recipe.recover)),
    ]
    for where, kind, name, entry in entries:
        fields = {} if name == KEEP else registry.find(kind, name, RecipeError).options.model_fields
        for key, value in entry.options.items():
            if key in fields and is_choice(value, fields[key]):
                found[(*where, key)] = value
    return found


def refuse_choices(recipe: RecipeFields) -> None:
    """Refuse a recipe that leaves something to a tuning loop.

    Raises:
        RecipeError: it names the first such place.
    """
    for where, values in choices(recipe).items():
        told = f"the range {values}" if isinstance(values, Range) else quoted(values)
        raise RecipeError(
            f"{recipe.at(*where)}: {told} is a choice for a tuning loop; write one value here, or let a "
            "search or tuning loop choose"
        )


def in_words(values: list[Any] | Range) -> dict[str, Any]:
    """Alternatives as a study keeps them that has plain values only: JSON -> value; of a range, nothing."""
    return {} if isinstance(values, Range) else {json.dumps(value, sort_keys=True): value for value in values}


def suggestion(recipe: RecipeFields, trial: Any) -> dict[str, Any]:
    """What a trial chooses from a recipe's lists, by field name such as ``"quantize[1].centroids"``.

    Raises:
        RecipeError: the recipe has neither lists nor ranges.
    """
    chosen = {}
    for where, values in choices(recipe).items():
        name = field_name(where)
        if isinstance(values, Range):
            ask = trial.suggest_int if values.whole else trial.suggest_float
            step = {} if values.step is None else {"step": values.step}
            chosen[name] = ask(name, values.low, values.high, log=values.log, **step)
        elif all(isinstance(value, _PLAIN) for value in values):
            chosen[name] = trial.suggest_categorical(name, values)
        else:  # Optuna keeps plain values only
            words = in_words(values)
            chosen[name] = words[trial.suggest_categorical(name, list(words))]
    if not chosen:
        raise RecipeError(
            f"recipe {recipe.name!r} has nothing to tune: write a list where a field takes one value, "
            "such as centroids: [8, 16, 32], or a range, such as lr: {low: 1.0e-4, high: 1.0e-2, log: true}"
        )
    return chosen
