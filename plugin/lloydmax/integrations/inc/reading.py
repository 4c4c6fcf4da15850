"""Files of configurations, read with the limits of recipes."""

from __future__ import annotations

import json
from typing import Any

from lloydmax.errors import RecipeError
from lloydmax.recipe.lines import LinedData, place
from lloydmax.recipe.parsing import parsed
from lloydmax.recipe.plain import plain
from lloydmax.recipe.reading import read_text


def from_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecipeError: no such file, or not a mapping of plain data.
    """
    return _mapping(parsed(read_text(path), str(path)))


def from_json(path: str) -> dict[str, Any]:
    """The mapping in a JSON file; raises as :func:`from_yaml` does."""
    text = read_text(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise RecipeError(f"{place(str(path), line, ())}: not valid JSON: {error}") from None
    return _mapping(LinedData(plain(found, str(path)), str(path)))


def _mapping(found: LinedData) -> dict[str, Any]:
    if not isinstance(found.data, dict):
        raise RecipeError(f"{found.at(())}: a configuration is a mapping")
    return found.data
