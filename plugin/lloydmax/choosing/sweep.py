"""The sweep: what every number of centroids costs and harms in every layer, one layer at a time, without labels."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloydmax.choosing.rows import Row, meaning
from lloydmax.codebook.layout import code_bits
from lloydmax.errors import IntegrationError
from lloydmax.hooks.units import Option, Unit
from lloydmax.runtime import files
from lloydmax.runtime.files import path_of, shown, write_bytes
from lloydmax.runtime.text import new_table, render

if TYPE_CHECKING:
    from rich.table import Table

_LEGEND = 24
"""Units from which a plot has no legend."""


@dataclass(frozen=True)
class Sweep:
    """What :func:`lloydmax.sweep` gives back; ``print(sweep)`` is a table.

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
        """Write the sweep as JSON.

        Raises:
            OutputError: the folder is missing or not writable, the disk is full.
        """
        files.write_json(path, self.to_dict())

    def plot(self, path: str | Path) -> None:
        """Draw damage against bytes, a line for each unit; the ending decides the format (``.svg``, ``.png``).

        Raises:
            IntegrationError: see :func:`check_plot`. OutputError: the file cannot be written.
        """
        _plot(self, path)

    def __str__(self) -> str:
        return render(_table(self))


def _table(sweep: Sweep) -> Table:
    """A line for each unit, a column for each number of centroids: damage, and agreement where there are classes."""
    numbers = sorted({row.centroids for row in sweep.rows})
    heads = {k: f"k={k} ({code_bits(k)} bit)" for k in numbers}
    classes = sweep.rows[0].kl is not None
    what = "KL to the original in nats, agreement in %" if classes else "signal to noise of the outputs in dB"
    measured = sum(row.measured for row in sweep.rows)
    table = new_table(
        title=f"Each alone, on {sweep.samples:,} of {sweep.measured_on}: {what}",
        caption=f"{measured} of {len(sweep.rows)} measured (*), the others estimated; "
        f"{sweep.passes:.1f} forward passes, {sweep.seconds:.1f} s",
        spare=("weights", *(heads[k] for k in [*numbers[1::2], *reversed(numbers[2::2])])),
    )
    table.add_column("unit", overflow="fold")
    for name in ("weights", *heads.values()):
        table.add_column(name, justify="right")
    for unit, rows in sweep.by_unit().items():
        cells = {
            row.centroids: (f"{row.kl:.2g} {100 * (row.agreement or 0):.1f}" if classes else f"{row.snr:.1f}")
            + ("*" if row.measured else "")
            for row in rows
        }
        table.add_row(unit, f"{rows[0].weights:,}", *(cells.get(k, "") for k in numbers))
    return table


def check_plot(path: str | Path) -> None:
    """Refuse a plot that cannot be drawn.

    Raises:
        IntegrationError: matplotlib is not installed, or cannot write what the ending names.
    """
    try:
        from matplotlib import backend_bases
    except ImportError:
        raise IntegrationError("plots need matplotlib; run: pip install matplotlib") from None
    known = backend_bases.FigureCanvasBase.get_supported_filetypes()
    place = path_of(path)
    if place.suffix.lower()[1:] not in known:
        raise IntegrationError(
            f"the ending of {shown(place.name)} does not name a format of a plot: {', '.join(known)}"
        )


def _plot(sweep: Sweep, path: str | Path) -> None:
    """Damage against bytes on logarithmic axes, a line for each unit, from early (dark) to late (bright)."""
    check_plot(path)
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    units = sweep.by_unit()
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    floor = min((row.damage for row in sweep.rows if row.damage > 0), default=1e-9)
    for number, (unit, rows) in enumerate(units.items()):
        axes.plot(
            [row.bytes for row in rows],
            [max(row.damage, floor) for row in rows],
            marker=".",
            color=colormaps["viridis"](number / max(len(units) - 1, 1)),
            label=unit,
        )
    axes.set(xscale="log", yscale="log", xlabel="bytes of codes and codebook")
    axes.set_ylabel(meaning(sweep.rows))
    axes.set_title(f"{sweep.model}: one layer at a time, each point a number of centroids")
    if len(units) <= _LEGEND:
        axes.legend(fontsize="small")
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path_of(path).suffix.lower()[1:])
    write_bytes(path, drawn.getbuffer())
