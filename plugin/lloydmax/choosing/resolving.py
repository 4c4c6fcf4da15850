"""From a choice of centroids to a recipe."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from lloydmax.plan.plan import Plan
from lloydmax.recipe.recipe import Recipe


def resolved_recipe(recipe: Recipe, plan: Plan, choice: Mapping[str, int]) -> Recipe:
    """The recipe with explicit rules in place of its own: one for all parameters that get the same.

    Args:
        recipe: the rest is kept, but for the ``search`` section.
        plan: what is compressed, with any numbers of centroids.
        choice: centroids of every planned parameter.
    """
    rules: dict[str, dict[str, Any]] = {}
    for p in plan.parameters.values():
        layer, _, leaf = p.name.rpartition(".")
        written = copy.deepcopy(plan.recipe.data()["quantize"][p.rule])
        rule = {key: value for key, value in written.items() if key not in ("layers", "types", "except", "parameter")}
        if "centroids" in type(p.options).model_fields:
            rule["centroids"] = choice[p.name]
        rule |= {} if leaf == "weight" else {"parameter": leaf}
        rules.setdefault(json.dumps(rule, sort_keys=True), {"layers": [], **rule})["layers"].append(layer)
    data = copy.deepcopy(recipe.data())
    data.pop("search", None)
    return recipe.changed(data | {"quantize": list(rules.values())})
