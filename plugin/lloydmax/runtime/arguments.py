"""What callers give as arguments, checked: one line names the argument, what it is and what it may be."""

from __future__ import annotations

import math
import operator
from typing import Any

from lloydmax.errors import LloydmaxError
from lloydmax.runtime.text import printable

_LARGEST = 2**63 - 1


def whole(name: str, value: Any, error: type[LloydmaxError], least: int | None = 1, most: int = _LARGEST) -> int:
    """A whole number from ``least`` (``None``: any) to ``most``; also one of numpy, not a truth value.

    Raises:
        error: it is something else.
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found > most or (least is not None and found < least):
        span = f", {least:,} to {most:,}" if most < _LARGEST else f", at least {least}"
        raise error(f"{name} must be a whole number{'' if least is None else span}, not {_shown(value)}")
    return found


def number(
    name: str, value: Any, error: type[LloydmaxError], least: float = 0.0, most: float = math.inf, above: bool = False
) -> float:
    """A finite number from ``least`` to ``most``; also one of numpy or a tensor of one, not a truth value or text.

    Args:
        name: of the argument.
        value: of the argument.
        error: to raise.
        least: the smallest number that is allowed, see ``above``.
        most: the largest one.
        above: whether ``least`` itself is not allowed.

    Raises:
        error: it is something else.
    """
    try:
        found = math.nan if isinstance(value, (bool, str, bytes, bytearray)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        found = math.nan
    if not (math.isfinite(found) and least <= found <= most) or (above and found == least):
        span = f"a number above {least:g}" if above else f"{least:g} or more"
        span += f", {most:g} at most" if math.isfinite(most) else ""
        raise error(f"{name} must be {span}, not {_shown(value)}")
    return found


def _shown(value: Any) -> str:
    try:
        return printable(repr(value), 100)
    except Exception:  # somebody else's __repr__, or an integer of too many digits
        return f"of type {type(value).__name__}"
