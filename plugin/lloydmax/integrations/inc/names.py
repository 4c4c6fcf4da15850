"""How local configurations name layers: regular expressions and module types."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from lloydmax.errors import IntegrationError, RecipeError
from lloydmax.hooks import registry
from lloydmax.network.layers import Layer

TYPE = "type:"
"""Prefix of the key of a module type among the local configurations."""


def key_of(item: Any) -> str:
    """The string under which a local configuration is kept: a pattern, or ``type:`` and a class name."""
    if isinstance(item, type):
        return TYPE + item.__name__
    if not isinstance(item, str):
        raise IntegrationError(f"a layer is given by a name pattern or a module type, not by {item!r}")
    try:
        re.compile(item)
    except re.error as error:
        raise IntegrationError(f"{item!r} is not a regular expression ({error}); escape literal characters") from None
    return item


def names_of(pattern: str, layers: list[Layer] | None, model: nn.Module | None) -> list[str]:
    """The layers that a pattern matches in full; without a model, the glob that says the same.

    Raises:
        RecipeError: it matches nothing, or no glob says the same.
    """
    if layers is None:
        text = pattern.replace(r"\.", ".").replace(".*", "*")
        if not re.fullmatch(r"[\w.*]+", text):
            raise RecipeError(f"{pattern!r} is not a name or glob of a recipe; pass the model: to_recipe(model)")
        return [text]
    exact = [layer.name for layer in layers if layer.name == pattern]
    found = exact or [layer.name for layer in layers if re.fullmatch(pattern, layer.name) and not layer.norm]
    if not found:
        hint = registry.spelling_hint(pattern, [layer.name for layer in layers])[:300]
        raise RecipeError(f"{pattern!r} matches no layer of {type(model).__name__} in full{hint}")
    return found
