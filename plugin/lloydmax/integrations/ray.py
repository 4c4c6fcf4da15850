"""Ray Tune: a recipe's lists as a search space, and the recipe that a trial's configuration means.

recipe = lloydmax.Recipe.load("recipe.yaml")

def trainable(config):
    result = lloydmax.compress(build_model(), recipe.resolved(config), data)
    return {"agreement": result.report.agreement.after, "bytes": result.report.bytes.file}

tune.Tuner(trainable, param_space=search_space(recipe)).fit()
"""

from __future__ import annotations

from typing import Any

from lloydmax.errors import RecipeError
from lloydmax.integrations.absent import absent
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.space import Range, Values, listed


def search_space(recipe: Any, grid: bool = False) -> dict[str, Any]:
    """A search space for ``ray.tune.Tuner``; :meth:`lloydmax.Recipe.resolved` takes the configurations drawn from it.

    Args:
        recipe: anything that :meth:`Recipe.load` takes, with lists where an option takes one value.
        grid: try every combination; ``False``: leave it to the search algorithm.

    Returns:
        For each list or range, by field name such as ``"quantize[1].centroids"``, a domain of Ray's or a
        ``tune.grid_search``.

    Raises:
        IntegrationError: Ray Tune cannot be imported. RecipeError: the recipe has neither lists nor ranges, or, with
            ``grid``, a range without an end of values.
    """
    try:
        from ray import tune
    except ImportError as error:
        raise absent("Ray Tune", ("ray",), "ray", error) from error
    recipe = Recipe.load(recipe)
    choices = recipe.space()
    if not choices:
        raise RecipeError(f"recipe {recipe.name!r} has nothing to tune: write a list where a field takes one value")
    if grid:
        return {name: tune.grid_search(listed(name, values)) for name, values in choices.named().items()}
    return {name: _domain(tune, values) for name, values in choices.named().items()}


def _domain(tune: Any, values: Values) -> Any:
    if not isinstance(values, Range):
        return tune.choice(values)
    low, high, step = values.low, values.high, values.step
    if values.whole:  # the end is not part of Ray's own, but for those with steps
        if step is not None:
            return tune.choice(values.values()) if (high - low) % step or low % step else tune.qrandint(low, high, step)
        return (tune.lograndint if values.log else tune.randint)(low, high + 1)
    if step is not None:
        return tune.choice(values.values())
    return (tune.loguniform if values.log else tune.uniform)(low, high)
