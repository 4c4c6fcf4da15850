"""A dict of Python objects -> plain data: copies, so that nothing is shared, and no object that a file cannot hold."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from lloydmax.errors import RecipeError
from lloydmax.recipe.lines import MOST_BYTES, SURELY, LinedData, Where
from lloydmax.runtime.text import printable

_PLAIN = "plain data: mappings, lists, text, numbers, true, false, null"
_NUMBER = 8
"""Bytes that a value counts that is not text."""


def plain(given: Mapping[Any, Any], origin: str = "recipe") -> Any:
    """The same in dicts, lists, ``str``, ``int``, ``float``, ``bool`` and ``None``.

    Tuples and ranges become lists; numbers of NumPy, of torch (without axes), ``Decimal`` and ``Fraction`` plain ones.

    Raises:
        RecipeError: anything else, such as arrays, sets, bytes and paths; keys that are not text; too large, or too
            deep, which a list within itself is, too.
    """
    return _Copying(origin).copy(given, ())


class _Copying:
    def __init__(self, origin: str) -> None:
        self.seen, self.bytes = LinedData(None, origin), 0

    def copy(self, given: Any, where: Where) -> Any:
        value = given if isinstance(given, (Mapping, list, tuple, range)) else self._scalar(given, where)
        self._count(value, where)
        self.seen.admit(value, where)
        if isinstance(value, Mapping):
            return {self._key(key, where): self.copy(item, (*where, key)) for key, item in value.items()}
        if isinstance(value, (list, tuple, range)):
            return [self.copy(item, (*where, index)) for index, item in enumerate(value)]
        return value

    def _key(self, key: Any, where: Where) -> str:
        if not isinstance(key, str):
            raise RecipeError(f"{self._at(where)}: a key must be text, not {type(key).__name__}")
        self._count(key, where)
        self.seen.admit_scalar(key, where)
        return str.__str__(key)

    def _count(self, value: Any, where: Where) -> None:
        self.bytes += len(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else _NUMBER
        if self.bytes > MOST_BYTES:
            raise RecipeError(f"{self._at(where)}: larger than {MOST_BYTES >> 20} MiB, {SURELY}")

    def _scalar(self, given: Any, where: Where) -> Any:
        try:
            value = given.item() if getattr(given, "shape", None) == () and hasattr(given, "item") else given
            if value is None or isinstance(value, bool):
                return value
            if isinstance(value, str):
                return str.__str__(value)
            if isinstance(value, numbers.Integral):
                return int(value)
            if isinstance(value, (numbers.Real, Decimal)):
                return float(value)
        except (OverflowError, ValueError, RuntimeError) as error:
            reason = printable(str(error), 100)
            raise RecipeError(f"{self._at(where)}: not a number of at most 64 bits: {reason}") from None
        hint = "; give .tolist() of it" if hasattr(given, "tolist") else ""
        raise RecipeError(f"{self._at(where)}: a recipe is {_PLAIN}, not {type(given).__name__}{hint}")

    def _at(self, where: Where) -> str:
        return self.seen.at(where)
