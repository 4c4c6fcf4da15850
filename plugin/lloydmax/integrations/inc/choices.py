"""The choices of a configuration: lists that stand where one value is expected, for ``autotune``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.integrations.inc.fields import DEFAULTS, RULE, WHOLE
from lloydmax.recipe.lines import field_name
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.sections import KEEP
from lloydmax.recipe.space import is_choice, listed
from lloydmax.runtime.text import printable

_MOST_TRIALS = 1000
"""Combinations of choices."""
_NEVER = {*RULE, *WHOLE, "white_list"} - {"centroids", "granularity"}
"""Fields that are not options of a quantizer."""


def choices(data: Mapping[str, Any], recipe: Recipe) -> dict[tuple[Any, ...], list[Any]]:
    """The places of all choices in a configuration: ``{place in data: alternatives}``.

    Args:
        data: of ``CodebookConfig.to_dict``.
        recipe: what its part for the whole model stands for.
    """
    own: tuple[str, ...] = ("global",) if "local" in data else ()
    whole = data["global"] if own else data
    parts: dict[tuple[str, ...], Mapping[str, Any]] = {own: whole}
    parts |= {("local", key): local for key, local in data.get("local", {}).items()}
    found: dict[tuple[Any, ...], list[Any]] = {}
    for where, part in parts.items():
        if part["quantizer"] == KEEP:
            continue
        options = registry.find("quantizer", part["quantizer"], RecipeError).options.model_fields
        for key, value in part.items():
            if key not in _NEVER and key in options and is_choice(value, options[key]):
                found[(*where, key)] = value
        if isinstance(part["bias_centroids"], list):
            found[(*where, "bias_centroids")] = part["bias_centroids"]
    given = {**DEFAULTS, **whole}
    found |= {(*own, key): list(given[key]) for key in ("bits", "effort") if isinstance(given[key], (list, tuple))}
    if given["recipe"] is not None:
        inner = Recipe.load(given["recipe"]).choices()
        found |= {(*own, "recipe", *at): listed(field_name(at), values) for at, values in inner.items()}
    if given["recover"] is not None:
        several = isinstance(given["recover"], (list, tuple))
        for (section, *at), choice in recipe.choices().items():
            if section == "recover":
                found[(*own, "recover", *(at if several else at[1:]))] = listed(field_name((section, *at)), choice)
    return found


def refuse_many(places: Mapping[tuple[Any, ...], list[Any]]) -> None:
    """Refuse choices whose combinations nobody can try, before any is made.

    Raises:
        RecipeError: they are too many.
    """
    if (count := math.prod(map(len, places.values()))) > _MOST_TRIALS:
        names = ", ".join(printable(str(where[-1]), 100) for where in places)
        raise RecipeError(
            f"the choices of {printable(names, 200)} have {count:,} combinations, more than the {_MOST_TRIALS:,} that "
            "can be tried: shorten the lists"
        )
