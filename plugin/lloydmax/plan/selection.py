"""Which parameters a rule means: ranges in forward order, names, globs, module types."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch.nn.parameter import is_lazy

from lloydmax.errors import RecipeError
from lloydmax.hooks.registry import spelling_hint
from lloydmax.network.layers import Layer
from lloydmax.plan.globs import is_glob, matches
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.sections import Rule
from lloydmax.runtime.text import printable, quoted

_RANGE = re.compile(r"([0-9]+)(?:\s*-\s*([0-9]+))?")
_WEIGHT = "weight"
_NAMED = 3
"""Weights that a message names."""


def select(layers: list[Layer], rule: Rule, index: int, recipe: Recipe, beyond: bool = True) -> list[tuple[Layer, str]]:
    """The ``(layer, name of a weight within it)`` pairs that rule number ``index`` means.

    ``parameter: weight`` means all that a rule for all means, whatever it is called (``in_proj_weight``), with every
    large one that the model keeps in a buffer; any other buffer is meant where the rule has its exact name.

    Args:
        layers: of the model.
        rule: the rule.
        index: its number from 0.
        recipe: that it stands in.
        beyond: whether weights of a known layout outside of convolutions and linear layers are meant, too.

    Raises:
        RecipeError: a type, name, glob, exception or parameter that matches nothing; a range beyond the model.
    """
    at = ("quantize", index)
    known_types = {name for layer in layers for name in layer.types}
    for position, name in enumerate(rule.types):
        if name not in known_types:
            raise RecipeError(
                f"{recipe.at(*at, 'types', position)}: the model has no module of type {quoted(name)}"
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
        for layer in _selected(selector, rule, where, allowed, numbered, layers, beyond):
            chosen[layer.name] = layer
    pairs = [
        (layer, name) for layer in chosen.values() for name in layer.weights() if _means(rule, layer, name, beyond)
    ]
    if not pairs:
        names = sorted({name for layer in chosen.values() for name in layer.module._parameters})
        hint = spelling_hint(rule.parameter, names) if names else f"; {_largest(layers)}"
        raise RecipeError(
            f"{recipe.at(*at, 'parameter')}: none of the {len(chosen)} selected layers has a parameter "
            f"{quoted(rule.parameter)}{hint}"
        )
    return pairs


def decided(layers: list[Layer], rule: Rule) -> set[str] | None:
    """The layers that a rule for all weights leaves out by ``except``; ``None`` for a rule of less than all."""
    if "all" not in rule.selectors or rule.types or not matches(rule.parameter, _WEIGHT):
        return None
    return {la.name for la in layers if any(matches(pattern, la.name) for pattern in rule.except_)}


def _largest(layers: list[Layer]) -> str:
    """The weights that the model has instead."""
    sizes = {
        f"{la.name}.{leaf}".lstrip("."): held.numel()
        for la in layers
        for leaf, held in la.weights().items()
        if not is_lazy(held)
    }
    largest = sorted(sizes, key=lambda name: -sizes[name])[:_NAMED]
    return f"the largest weights of the model, which a rule has to name, are {', '.join(largest) or 'none'}"


def _means(rule: Rule, layer: Layer, name: str, beyond: bool) -> bool:
    """Whether a rule that selects a layer means this weight of it."""
    if beyond and matches(rule.parameter, _WEIGHT) and layer.meant(name):
        return True
    return matches(rule.parameter, name) if name in layer.module._parameters else name == rule.parameter


def _selected(
    selector: str, rule: Rule, where: str, allowed: list[Layer], numbered: list[Layer], layers: list[Layer],
    beyond: bool,
) -> Iterable[Layer]:  # fmt: skip
    if selector == "all":
        chosen = [la for la in allowed if not (beyond and la.routes and la.types[0] not in rule.types)]
        return chosen if rule.types else [la for la in chosen if la.numbered or (beyond and la.projects)]
    by_name = [layer for layer in allowed if layer.name == selector]
    if (span := _RANGE.fullmatch(selector)) and not by_name:
        first, last = int(span.group(1)), int(span.group(2) or span.group(1))
        if not 1 <= first <= last <= len(numbered):
            raise RecipeError(
                f"{where}: layers {printable(selector, 100)} do not exist; the convolution and linear layers that pass "
                f"this rule's filters are numbered 1-{len(numbered)}"
            )
        return numbered[first - 1 : last]
    hits = by_name or [layer for layer in allowed if matches(selector, layer.name) and (rule.types or not layer.norm)]
    if not hits:
        if any(matches(selector, layer.name) for layer in layers):
            raise RecipeError(
                f"{where}: {quoted(selector)} matches only layers that 'types' or 'except' leave out, or "
                "normalization layers (name their type in 'types' to mean them)"
            )
        raise RecipeError(_nothing(where, selector, layers))
    return hits


def _nothing(where: str, pattern: str, layers: list[Layer]) -> str:
    hint = "" if is_glob(pattern) else spelling_hint(pattern, [layer.name for layer in layers])
    return f"{where}: {quoted(pattern)} matches no layer of the model{hint[:300]}"
