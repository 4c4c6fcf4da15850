"""A sweep as the page shows it: damage against bytes of every unit, and what a search chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from lloydmax.choosing.rows import Row
from lloydmax.errors import ReportError
from lloydmax.report.reading import infinite, read_json, validated
from lloydmax.runtime.files import plain

if TYPE_CHECKING:
    from lloydmax.choosing.search import SearchResult
    from lloydmax.choosing.sweep import Sweep

_BUDGETS = {
    "reduction": "at least {:.1%} smaller",
    "bits": "at most {:g} bits a weight",
    "agreement": "an agreement of at least {:.1%}",
    "bytes": "at most {:,.0f} bytes",
}
_LOWEST = -3000
"""SNR in dB: the noise over the signal is still a number."""


def _sound(row: Row) -> Row:
    if row.snr < _LOWEST:
        raise ValueError(f"an snr of {row.snr:g} dB")
    return row


_ROWS = Annotated[list[Annotated[Row, AfterValidator(_sound)]], Field(min_length=1)]


@dataclass(frozen=True)
class DamageCurves:
    """What a sweep, or a search with its sweep, found.

    Attributes:
        model: class name of the model.
        measured_on: the data in words.
        samples: how many inputs counted.
        rows: unit by unit in forward order, centroids ascending.
        budget: of the search, in words; ``None`` for a sweep alone.
        searched: centroids of every unit that the search chose; empty for a sweep alone.
        uniform: centroids of every unit of the best uniform choice; empty where there is none.
    """

    model: str
    measured_on: str
    samples: int
    rows: list[Row]
    budget: str | None
    searched: dict[str, int]
    uniform: dict[str, int]

    @classmethod
    def of(cls, found: Sweep | SearchResult | DamageCurves) -> DamageCurves:
        """The curves of a sweep or search."""
        return (
            found if isinstance(found, DamageCurves) else cls._from_dict(plain(found.to_dict()), type(found).__name__)
        )

    @classmethod
    def from_json(cls, path: str | Path) -> DamageCurves:
        """Read what ``to_json`` of a sweep or a search wrote.

        Raises:
            ReportError: it is neither, or an older lloydmax wrote it. OSError: it cannot be read.
        """
        return cls._from_dict(read_json(path), path)

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any], path: str | Path) -> DamageCurves:
        search = "found" in data and "units" in data
        if search and "sweep" not in data:
            raise ReportError(f"{path} is a search of an older lloydmax, without its sweep: search again")
        swept = data["sweep"] if search else data
        if not isinstance(swept, dict) or not isinstance(swept.get("rows"), list):
            raise ReportError(
                f"{path} is neither a sweep nor a search: write one with 'lloydmax search --report', Sweep.to_json or "
                "SearchResult.to_json"
            )
        budget = validated(path, "budget", dict[str, float] | None, data.get("budget")) or {}
        return cls(
            model=validated(path, "model", str, swept.get("model")),
            measured_on=validated(path, "measured_on", str, swept.get("measured_on")),
            samples=validated(path, "samples", int, swept.get("samples")),
            rows=validated(path, "rows", _ROWS, [infinite(row, "snr") for row in swept["rows"]]),
            budget=", ".join(_BUDGETS.get(name, "{}").format(value) for name, value in budget.items()) or None,
            searched=_choice(path, "found", data) if search else {},
            uniform=_choice(path, "uniform", data) if search else {},
        )

    def units(self) -> list[str]:
        """The units in forward order."""
        return list(dict.fromkeys(row.unit for row in self.rows))

    def damage(self, unit: str, centroids: int) -> float | None:
        """Damage that a unit alone does with this number of centroids; ``None`` where it was not tried."""
        return next((r.damage for r in self.rows if (r.unit, r.centroids) == (unit, centroids)), None)


def _choice(path: str | Path, name: str, data: Mapping[str, Any]) -> dict[str, int]:
    trial = data.get(name)
    choice = trial.get("choice") if isinstance(trial, dict) else None
    return validated(path, f"{name}.choice", dict[str, int] | None, choice) or {}
