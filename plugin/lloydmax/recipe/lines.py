"""Plain data that remember on which line every value stands, and what may stand in them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from lloydmax.errors import RecipeError
from lloydmax.runtime.text import printable, quoted

Where = tuple[str | int, ...]
MOST_BYTES = 1 << 20
"""Of a recipe, as a file, as text, or as the text and numbers of a dict."""
MOST_VALUES = 20_000
"""In a recipe: lists and mappings count, too."""
MOST_CHARACTERS = 10_000
"""Of one text in a recipe."""
DEEPEST = 50
"""Lists and mappings within each other in a recipe."""
_LARGEST = 1 << 63
_LONGEST = 200
"""Characters of the name of a field in a message."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that no text of a recipe has, those that turn the direction of writing among them."""
SURELY = "so surely not a recipe"


@dataclass
class LinedData:
    """Plain data, and the line of each value in it.

    Attributes:
        data: dicts, lists and scalars.
        origin: the file it was read from, or ``"recipe"``.
        lines: for the path of keys and indices to a value, its line (from 1); empty when it was given as a dict.
        admitted: how many values have been.
    """

    data: Any
    origin: str = "recipe"
    lines: dict[Where, int] = field(default_factory=dict)
    admitted: int = field(default=0, repr=False, compare=False)

    def at(self, where: Where) -> str:
        """Origin, line and field of a value (or of the nearest enclosing one that has a line)."""
        path = where
        while path and path not in self.lines:
            path = path[:-1]
        return place(self.origin, self.lines.get(path), where)

    def admit(self, value: Any, where: Where) -> None:
        """Refuse a value that no recipe has, whatever its field; of lists and mappings, before what is in them is read.

        Raises:
            RecipeError: see :meth:`admit_scalar`; more values, or more levels, than a recipe may have.
        """
        self.admitted += 1
        if len(where) > DEEPEST:
            at = place(self.origin, self.lines.get(where), None)
            raise RecipeError(f"{at}: nested more than {DEEPEST} levels deep in {field_name(where[:1])}: {SURELY}")
        if self.admitted > MOST_VALUES:
            raise RecipeError(f"{self.at(where)}: more than {MOST_VALUES:,} values, {SURELY}")
        self.admit_scalar(value, where)

    def admit_scalar(self, value: Any, where: Where) -> None:
        """Refuse a number that is not finite or has more than 64 bits, and a text with control characters.

        Raises:
            RecipeError: it is one of these.
        """
        if fault := _fault(value):
            raise RecipeError(f"{self.at(where)}: {fault}")


def _fault(value: Any) -> str | None:
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        return f"a text of {len(value):,} characters, at most {MOST_CHARACTERS:,} are read: {quoted(value)}"
    if isinstance(value, str) and (found := _CONTROL.search(value)):
        return f"text must not hold control characters, as {printable(found[0])} in {quoted(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, got {value}"
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        return "must be a number of at most 64 bits"
    return None


def place(origin: str, line: int | None, where: Where | None) -> str:
    """``file:line: field``, as messages begin."""
    at = printable(origin) if line is None else f"{printable(origin)}:{line}"
    return at if where is None else f"{at}: {field_name(where)}"


def field_name(where: Where) -> str:
    """``("quantize", 0, "centroids")`` as people write it: ``quantize[1].centroids`` (counted from 1)."""
    text = ""
    for key in where:
        text += f"[{key + 1}]" if isinstance(key, int) else f".{printable(key, 100) or repr(key)}"
    return printable(text.removeprefix("."), _LONGEST) or "the whole document"
