"""What a report says of tokens, in words."""

from __future__ import annotations

from lloydmax.teacher.language import TokenFigures

TOKEN_COLUMNS = ("mean KL", "median", "90 %", "99 %", "99.9 %", "largest")
"""Of the divergences of single tokens, in nats."""


def divergences_written(found: TokenFigures) -> list[str]:
    """The columns of :data:`TOKEN_COLUMNS`."""
    values = (found.kl_mean, found.kl_median, found.kl_90, found.kl_99, found.kl_99_9, found.kl_max)
    return [written(value, 5) for value in values]


def written(value: float | None, digits: int = 2) -> str:
    """A figure with so many digits behind the point; a dash where it was not measured."""
    return "–" if value is None else f"{value:,.{digits}f}"
