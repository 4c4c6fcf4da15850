"""Which parameters a rule means: ranges in forward order, names, globs, module types."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from lloydmax.errors import RecipeError
from lloydmax.plugins import nearest
from lloydmax.recipe import Recipe, Rule
from lloydmax.strategy import evaluating

_RANGE = re.compile(r"([0-9]+)(?:\s*-\s*([0-9]+))?")
_GLOB = re.compile(r"[*?\[]")
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class Layer:
    """A module of the model: its full name, itself, and the names of its class and base classes."""

    name: str
    module: nn.Module
    types: tuple[str, ...]

    @property
    def numbered(self) -> bool:
        """Whether ranges count it: a convolution or linear layer, subclasses included."""
        return isinstance(self.module, (_ConvNd, nn.Linear))

    @property
    def norm(self) -> bool:
        """Whether it is a normalization layer (told by class, or by a class name that says so)."""
        return isinstance(self.module, NORMS) or "Norm" in self.types[0]


def layers_of(model: nn.Module, example_inputs: Any = None) -> list[Layer]:
    """All modules that own parameters, in forward order (registration order without ``example_inputs``).

    Args:
        model: the model; a forward pass in evaluation mode is run when ``example_inputs`` are given.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
    """
    found = [Layer(name, module, _type_names(module)) for name, module in model.named_modules() if module._parameters]
    if example_inputs is None:
        return found
    order: dict[int, int] = {}

    def note(module: nn.Module, _: Any) -> None:
        order.setdefault(id(module), len(order))

    hooks = [layer.module.register_forward_pre_hook(note) for layer in found]
    try:
        with evaluating(model):
            if isinstance(example_inputs, dict):
                model(**example_inputs)
            else:
                model(*(example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)))
    finally:
        for hook in hooks:
            hook.remove()
    return sorted(found, key=lambda layer: order.get(id(layer.module), len(order)))


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
                f"{nearest(name, sorted(known_types))}"
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
            f"{rule.parameter!r}{nearest(rule.parameter, names)}"
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
    hint = "" if _GLOB.search(pattern) else nearest(pattern, [layer.name for layer in layers])
    return f"{where}: {pattern!r} matches no layer of the model{hint[:300]}"


def _type_names(module: nn.Module) -> tuple[str, ...]:
    own = parametrize.type_before_parametrizations(module)
    names = tuple(base.__name__ for base in own.__mro__ if issubclass(base, nn.Module) and base is not nn.Module)
    return names or ("Module",)
