"""Choices: lists in a recipe where an option takes one value, for tuning loops."""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.recipe.lines import Where, field_name
from lloydmax.recipe.sections import KEEP, RecipeFields, Rule, Step

_PLAIN = (type(None), bool, int, float, str)
"""Types of values that Optuna keeps as they are."""


def is_choice(value: Any, field: FieldInfo) -> bool:
    """Whether a list stands where the option takes a single value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return isinstance(value, list) and not any((get_origin(kind) or kind) in (list, tuple) for kind in kinds)


def choices(recipe: RecipeFields) -> dict[Where, list[Any]]:
    """The lists that stand where an option takes one value, for tuning loops: place -> alternatives."""
    found: dict[Where, list[Any]] = {}
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


def suggestion(recipe: RecipeFields, trial: Any) -> dict[str, Any]:
    """What a trial chooses from a recipe's lists, by field name such as ``"quantize[1].centroids"``.

    Raises:
        RecipeError: the recipe has no lists.
    """
    chosen = {}
    for where, values in choices(recipe).items():
        name = field_name(where)
        if all(isinstance(value, _PLAIN) for value in values):
            chosen[name] = trial.suggest_categorical(name, values)
        else:  # Optuna keeps plain values only
            words = {json.dumps(value, sort_keys=True): value for value in values}
            chosen[name] = words[trial.suggest_categorical(name, list(words))]
    if not chosen:
        raise RecipeError(
            f"recipe {recipe.name!r} has nothing to tune: write a list where an option takes one value, "
            "such as centroids: [8, 16, 32]"
        )
    return chosen
