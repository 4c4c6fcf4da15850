"""Axes of charts: from values to places, with round numbers as marks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_STEPS = (1, 2, 2.5, 5, 10)
_MOST = 8
"""Marks of an axis of factors at most."""
_FEW = 4
"""Powers of ten from which they are marks enough."""


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        low: value at its beginning.
        high: value at its end, more than ``low``.
        marks: round values that are written at it, ascending.
        write: a mark as text.
        log: whether equal steps are equal factors; then ``low`` is positive.
    """

    low: float
    high: float
    marks: tuple[float, ...]
    write: Callable[[float], str]
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value, 0 at the beginning and 1 at the end; values beyond lie at the nearer end."""
        low, high, here = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, here = math.log10(low), math.log10(high), math.log10(here)
        return (here - low) / (high - low)


def span(values: Iterable[float | None]) -> tuple[float, float] | None:
    """The smallest and the largest of the values that are finite; ``None`` where there are none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return (min(known), max(known)) if known else None


def linear(
    low: float, high: float, write: Callable[[float], str], most: int = 5, whole: bool = False, room: float = 0.0
) -> Axis:
    """An axis of equal steps.

    Args:
        low: the smallest value.
        high: the largest value; it may be ``low``.
        write: a mark as text.
        most: marks at most, about.
        whole: whether only whole numbers are marked.
        room: share of the span that is added at both ends.
    """
    wide = (high - low) * room or (0.0 if low < high else abs(high) * 0.05 or 1.0)
    low, high = low - wide, high + wide
    rough = (high - low) / most
    ten = 10.0 ** math.floor(math.log10(rough))
    steps = (factor * ten for factor in _STEPS if not whole or (factor * ten).is_integer())
    step = next((step for step in steps if step >= rough * 0.999), 1.0)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple(min(max(number * step, low), high) for number in range(first, last + 1)), write)


def logarithmic(low: float, high: float, write: Callable[[float], str]) -> Axis:
    """An axis of equal factors; its marks are powers of ten, where these are few their multiples by 2 and 5, and
    where these are fewer than two those of equal steps.

    Args:
        low: the smallest value, positive.
        high: the largest value; it may be ``low``.
        write: a mark as text.
    """
    if high <= low * 1.001:
        low, high = low / 2, high * 2
    ends = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks: Sequence[float] = ()
    for factors in ((1,), (1, 2, 5)):
        marks = [factor * 10.0**end for end in ends for factor in factors if low <= factor * 10.0**end <= high]
        if len(marks) >= _FEW:
            break
    if len(marks) < 2:
        marks = linear(low, high, write).marks
    return Axis(low, high, tuple(marks[:: math.ceil(len(marks) / _MOST)]), write, log=True)
