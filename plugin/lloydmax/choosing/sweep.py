"""The sweep: what every number of centroids costs and harms in every layer, one layer at a time, without labels."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lloydmax.choosing.rows import Row
from lloydmax.hooks.units import Option, Unit
from lloydmax.runtime import files


@dataclass(frozen=True)
class Sweep:
    """What :func:`sweep` gives back; ``print(sweep)`` is a table.

    Attributes:
        model: class name of the model.
        recipe: its name.
        rows: unit by unit in forward order, centroids ascending.
        measured_on: the data in words.
        samples: how many inputs counted.
        passes: forward passes over all of them that it took, a backward pass counted as two.
        seconds: wall time.
        parameters: of each unit.
    """

    model: str
    recipe: str
    rows: list[Row]
    measured_on: str
    samples: int
    passes: float
    seconds: float
    parameters: dict[str, tuple[str, ...]] = field(repr=False)

    def units(self) -> list[Unit]:
        """The sweep as a problem for a search method."""
        return [
            Unit(
                name,
                self.parameters[name],
                rows[0].weights,
                tuple(Option(row.centroids, row.bytes, row.damage) for row in rows),
            )
            for name, rows in self.by_unit().items()
        ]

    def by_unit(self) -> dict[str, list[Row]]:
        """The rows of every unit."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.unit, []).append(row)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an infinite signal-to-noise ratio becomes ``None``."""
        rows = [asdict(row) | {"snr": row.snr if math.isfinite(row.snr) else None} for row in self.rows]
        names = ("model", "recipe", "measured_on", "samples", "passes", "seconds")
        return {name: getattr(self, name) for name in names} | {"rows": rows}

    def to_json(self, path: str | Path) -> None:
        """Write the sweep as JSON."""
        files.write_json(path, self.to_dict())

    def plot(self, path: str | Path) -> None:
        """Draw damage against bytes, a line for each unit; the ending decides the format (``.svg``, ``.png``).

        Raises:
            IntegrationError: matplotlib is not installed.
        """
        from lloydmax.choosing.plotting import plot_sweep

        plot_sweep(self, path)

    def __str__(self) -> str:
        from lloydmax.choosing.tables import sweep_table
        from lloydmax.runtime.text import render

        return render(sweep_table(self))
