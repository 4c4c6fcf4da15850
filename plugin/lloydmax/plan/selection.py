"""Which parameters a rule means: ranges in forward order, names, globs, module types."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from lloydmax.errors import RecipeError
from lloydmax.hooks.registry import spelling_hint
from lloydmax.network.layers import Layer
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.sections import Rule

_RANGE = re.compile(r"([0-9]+)(?:\s*-\s*([0-9]+))?")
_GLOB = re.compile(r"[*?\[]")


def select(layers: list[Layer], rule: Rule, index: int, recipe: Recipe) -> list[tuple[Layer, str]]:
    """The ``(layer, parameter name within it)`` pairs that rule number ``index`` means.

    Raises:
        RecipeError: a type, name, glob, exception or parameter that matches nothing; a range beyond the model.
    """
    at = ("quantize", index)
    known_types = {name for layer in layers for name in layer.types}
    for position, name in enumerate(rule.types):
        if name not in known_types:
            raise RecipeError(
                f"{recipe.at(*at, 'types', position)}: the model has no module of type {name!r}"
                f"{spelling_hint(name, sorted(known_types))}"
            )
    typed = [layer for layer in layers if not rule.types or set(rule.types) & set(layer.types)]
    excluded = set()
    for position, pattern in enumerate(rule.except_):
        hits = {layer.name for layer in layers if matches(pattern, layer.name)}
        if not hits:
            raise RecipeError(_nothing(recipe.at(*at, "except", position), pattern, layers))
        excluded |= hits
    allowed = [layer for layer in typed if layer.name not in excluded]
    numbered = [layer for layer in allowed if layer.numbered]
    chosen: dict[str, Layer] = {}
    for position, selector in enumerate(rule.selectors):
        where = recipe.at(*at, "layers", *((position,) if isinstance(rule.layers, list) else ()))
        for layer in _selected(selector, rule, where, allowed, numbered, layers):
            chosen[layer.name] = layer
    pairs = [
        (layer, name)
        for layer in chosen.values()
        for name, parameter in layer.module._parameters.items()
        if parameter is not None and matches(rule.parameter, name)
    ]
    if not pairs:
        names = sorted({name for layer in chosen.values() for name in layer.module._parameters})
        raise RecipeError(
            f"{recipe.at(*at, 'parameter')}: none of the {len(chosen)} selected layers has a parameter "
            f"{rule.parameter!r}{spelling_hint(rule.parameter, names)}"
        )
    return pairs


def matches(pattern: str, name: str) -> bool:
    """Whether a name is the pattern, or fits it as a glob (case-sensitive; ``*`` crosses dots)."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def _selected(
    selector: str, rule: Rule, where: str, allowed: list[Layer], numbered: list[Layer], layers: list[Layer]
) -> Iterable[Layer]:
    if selector == "all":
        return allowed if rule.types else numbered
    by_name = [layer for layer in allowed if layer.name == selector]
    if (span := _RANGE.fullmatch(selector)) and not by_name:
        first, last = int(span.group(1)), int(span.group(2) or span.group(1))
        if not 1 <= first <= last <= len(numbered):
            raise RecipeError(
                f"{where}: layers {selector} do not exist; the convolution and linear layers that pass this "
                f"rule's filters are numbered 1-{len(numbered)}"
            )
        return numbered[first - 1 : last]
    hits = by_name or [layer for layer in allowed if matches(selector, layer.name) and (rule.types or not layer.norm)]
    if not hits:
        if any(matches(selector, layer.name) for layer in layers):
            raise RecipeError(
                f"{where}: {selector!r} matches only layers that 'types' or 'except' leave out, or normalization "
                "layers (name their type in 'types' to mean them)"
            )
        raise RecipeError(_nothing(where, selector, layers))
    return hits


def _nothing(where: str, pattern: str, layers: list[Layer]) -> str:
    hint = "" if _GLOB.search(pattern) else spelling_hint(pattern, [layer.name for layer in layers])
    return f"{where}: {pattern!r} matches no layer of the model{hint[:300]}"
