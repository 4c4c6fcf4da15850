"""Whether a budget can be kept at all, told before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from lloydmax.choosing.resolving import resolved_recipe
from lloydmax.format.sizes import predicted_size
from lloydmax.hooks.units import BudgetError
from lloydmax.plan.plan import Plan
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.search import Budget


def file_limit(budget: Budget, plan: Plan) -> int:
    """Bytes that the file may have: of a budget of bytes, or of a reduction."""
    if budget.bytes is not None:
        return budget.bytes
    assert budget.reduction is not None
    return math.floor((1 - budget.reduction) * plan.original_bytes)


def file_bytes(
    model: nn.Module, recipe: Recipe, plan: Plan, centroids: Mapping[str, int], streams: Mapping[str, int]
) -> int:
    """Size of the file of the recipe that a choice gives.

    Args:
        model: that the plan was made for.
        recipe: that is searched for.
        plan: with any numbers of centroids.
        centroids: of every planned parameter.
        streams: bytes of entropy-coded codes, by parameter; the others count as packed.
    """
    records = {name: p.with_centroids(centroids[name]).record() for name, p in plan.parameters.items()}
    answer = resolved_recipe(recipe, plan, centroids)
    return predicted_size(model, records, answer.data(), recipe.storage, streams)


def check_reach(model: nn.Module, recipe: Recipe, plan: Plan, fewest: Mapping[str, int], budget: Budget) -> None:
    """Refuse a budget that not even the fewest centroids keep.

    Args:
        model: that the plan was made for.
        recipe: that is searched for.
        plan: with the most centroids.
        fewest: centroids of every planned parameter that may be chosen.
        budget: an agreement is always taken to be in reach.

    Raises:
        BudgetError: it says what the smallest is.
    """
    entropy = recipe.storage.codes != "packed"
    if budget.bits is not None:
        planned = [p.with_centroids(fewest[p.name]) for p in plan.parameters.values()]
        weights = sum(p.weights for p in planned)
        codes = 0 if entropy else sum(p.code_bytes for p in planned)
        least = codes + sum(p.codebook_bytes(recipe.storage) for p in planned)
        if least > int(budget.bits * weights / 8):
            raise BudgetError(
                f"the budget bits {budget.bits} is out of reach: the fewest centroids that can be chosen take "
                f"{least:,} bytes with their codebooks, {least * 8 / weights:.3g} bits a weight: allow fewer, or relax "
                "the budget"
            )
    elif budget.agreement is None:
        streams = dict.fromkeys(fewest, 0) if entropy else {}
        refuse_over(budget, plan, file_bytes(model, recipe, plan, fewest, streams))


def refuse_over(budget: Budget, plan: Plan, smallest: int) -> None:
    """Refuse a budget of bytes or of a reduction that the smallest file is over.

    Raises:
        BudgetError: it says by how much.
    """
    name, value = budget.given
    if smallest > (limit := file_limit(budget, plan)):
        raise BudgetError(
            f"the budget {name} {value} allows a file of {limit:,} bytes; the smallest that can be chosen has "
            f"{smallest:,} ({1 - smallest / plan.original_bytes:.2%} smaller than the original): quantize more of the "
            "model, allow fewer centroids, or relax the budget"
        )
