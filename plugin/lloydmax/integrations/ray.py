"""Ray Tune: a recipe's lists as a search space, and the recipe that a trial's configuration means.

recipe = lloydmax.Recipe.load("recipe.yaml")

def trainable(config):
    result = lloydmax.compress(build_model(), recipe.resolved(config), data)
    return {"agreement": result.report.agreement.after, "bytes": result.report.bytes.file}

tune.Tuner(trainable, param_space=search_space(recipe)).fit()
"""

from __future__ import annotations

from typing import Any

from lloydmax.errors import IntegrationError, RecipeError
from lloydmax.recipe.lines import field_name
from lloydmax.recipe.recipe import Recipe


def search_space(recipe: Any, grid: bool = False) -> dict[str, Any]:
    """A search space for ``ray.tune.Tuner``; :meth:`lloydmax.Recipe.resolved` takes the configurations drawn from it.

    Args:
        recipe: anything that :meth:`Recipe.load` takes, with lists where an option takes one value.
        grid: try every combination; ``False``: leave it to the search algorithm.

    Returns:
        For each list, by field name such as ``"quantize[1].centroids"``, a ``tune.choice`` or ``tune.grid_search``.

    Raises:
        IntegrationError: Ray Tune is not installed. RecipeError: the recipe has no lists.
    """
    try:
        from ray import tune
    except ImportError:
        raise IntegrationError("Ray Tune is not installed; run: pip install 'lloydmax[ray]'") from None
    recipe = Recipe.load(recipe)
    choices = recipe.choices()
    if not choices:
        raise RecipeError(f"recipe {recipe.name!r} has nothing to tune: write a list where an option takes one value")
    domain = tune.grid_search if grid else tune.choice
    return {field_name(where): domain(values) for where, values in choices.items()}
