"""Times and sizes as people write them: ``10m``, ``2GB``."""

from __future__ import annotations

import re
from typing import Any

from lloydmax.errors import LloydmaxError
from lloydmax.runtime.arguments import number
from lloydmax.runtime.text import quoted

_TIMES = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZES |= {"k": 10**3, "m": 10**6, "g": 10**9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*")


def seconds(name: str, value: Any, error: type[LloydmaxError]) -> float:
    """A time above 0, in seconds.

    Args:
        name: of the argument.
        value: a number of seconds, or a text such as ``90``, ``10m``, ``1h30m``.
        error: to raise.

    Raises:
        error: it is something else.
    """
    return _amount(name, value, error, _TIMES | {"": 1}, "seconds, or a text such as 90s, 10m or 1h30m")


def size(name: str, value: Any, error: type[LloydmaxError]) -> int:
    """A size above 0, in bytes.

    Args:
        name: of the argument.
        value: a number of bytes, or a text such as ``500MB``, ``2GB``, ``1.5GiB``.
        error: to raise.

    Raises:
        error: it is something else.
    """
    return int(_amount(name, value, error, _SIZES, "bytes, or a text such as 500MB or 2GB"))


def _amount(name: str, value: Any, error: type[LloydmaxError], units: dict[str, int], what: str) -> float:
    if not isinstance(value, str):
        return number(name, value, error, above=True)
    text = value.strip().lower()
    parts = _PART.findall(text)
    if not parts or "".join(_PART.split(text)[::3]) or any(unit not in units for _, unit in parts):
        raise error(f"{name} is {what}, not {quoted(value)}")
    return number(name, sum(float(count) * units[unit] for count, unit in parts), error, above=True)
