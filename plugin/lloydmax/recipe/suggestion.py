"""TODO docstring."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lloydmax.errors import RecipeError
from lloydmax.recipe.lines import field_name

if TYPE_CHECKING:
    from lloydmax.recipe.recipe import Recipe

_PLAIN = (type(None), bool, int, float, str)


def suggestion(recipe: Recipe, trial: Any) -> dict[str, Any]:
    """What a trial chooses from a recipe's lists, by field name such as ``"quantize[1].centroids"``.

    Raises:
        RecipeError: the recipe has no lists.
    """
    chosen = {}
    for where, values in recipe.choices().items():
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
