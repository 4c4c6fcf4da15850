"""How local configurations name layers: regular expressions, beginnings of names, and module types."""

from __future__ import annotations

import re
from collections.abc import Sequence
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


def meant(key: str, layers: Sequence[Layer] | None, model: nn.Module | None) -> tuple[list[str], list[str]]:
    """What a key means: names of layers, or a module type.

    A name, or a regular expression that matches full names, means these; else, as in INC, one that matches how names
    begin; else the name of a class means its layers.

    Args:
        key: of :func:`key_of`.
        layers: of the model; ``None``: without a model a key is a glob, or a type.
        model: for messages.

    Returns:
        The names, or the glob; and the type. One of the two is empty.

    Raises:
        RecipeError: it means nothing, or no glob says the same.
    """
    if key.startswith(TYPE):
        return [], [key.removeprefix(TYPE)]
    if layers is None:
        text = key.replace(r"\.", ".").replace(".*", "*")
        if not re.fullmatch(r"[\w.*]+", text):
            raise RecipeError(f"{key!r} is not a name or glob of a recipe; pass the model: to_recipe(model)")
        return [text], []
    if exact := [layer.name for layer in layers if layer.name == key]:
        return exact, []
    for match in (re.fullmatch, re.match):
        if found := [layer.name for layer in layers if match(key, layer.name) and not layer.norm]:
            return found, []
    if any(key in layer.types for layer in layers):
        return [], [key]
    hint = registry.spelling_hint(key, [layer.name for layer in layers])[:300]
    raise RecipeError(f"{key!r} matches no layer of {type(model).__name__}, neither a name nor its beginning{hint}")
