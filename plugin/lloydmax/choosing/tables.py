"""Sweeps and searches as tables in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from lloydmax.codebook.layout import code_bits
from lloydmax.runtime.text import percent, size

if TYPE_CHECKING:
    from lloydmax.choosing.search import SearchResult
    from lloydmax.choosing.sweep import Sweep


def sweep_table(sweep: Sweep) -> Table:
    """A line for each unit, a column for each number of centroids: damage, and agreement where there are classes."""
    numbers = sorted({row.centroids for row in sweep.rows})
    classes = sweep.rows[0].kl is not None
    what = "KL to the original in nats, agreement in %" if classes else "signal to noise of the outputs in dB"
    measured = sum(row.measured for row in sweep.rows)
    table = Table(
        title=f"Each alone, on {sweep.samples:,} of {sweep.measured_on}: {what}",
        caption=f"{measured} of {len(sweep.rows)} measured (*), the others estimated; "
        f"{sweep.passes:.1f} forward passes, {sweep.seconds:.1f} s",
        title_justify="left",
    )
    table.add_column("unit", overflow="fold")
    for name in ("weights", *(f"k={k} ({code_bits(k)} bit)" for k in numbers)):
        table.add_column(name, justify="right")
    for unit, rows in sweep.by_unit().items():
        cells = {
            row.centroids: (f"{row.kl:.2g} {100 * (row.agreement or 0):.1f}" if classes else f"{row.snr:.1f}")
            + ("*" if row.measured else "")
            for row in rows
        }
        table.add_row(unit, f"{rows[0].weights:,}", *(cells.get(k, "") for k in numbers))
    return table


def search_tables(result: SearchResult) -> list[RenderableType]:
    """The choice, and what it was predicted and measured to do."""
    choice = Table(title=f"Centroids that {result.method} chose for {result.budget_text}", title_justify="left")
    choice.add_column("unit", overflow="fold")
    for name in ("weights", "centroids", "bytes", "damage alone"):
        choice.add_column(name, justify="right")
    for row in result.rows():
        choice.add_row(
            row["unit"], f"{row['weights']:,}", str(row["centroids"]), f"{row['bytes']:,}", f"{row['damage']:.2g}"
        )
    table = Table(title="The whole model, before recovery", title_justify="left")
    table.add_column("choice")
    for name in ("bits a weight", "file", "smaller", "damage predicted", "KL (nats)", "agreement", "output MSE"):
        table.add_column(name, justify="right")
    for name, trial in result.compared():
        found = trial.measured
        table.add_row(
            name, f"{trial.bits:.3f}", size(trial.file_bytes), percent(trial.reduction), f"{trial.predicted:.3g}",
            "–" if found.kl is None else f"{found.kl:.5f}", percent(found.top1), f"{found.mse:.3g}",
        )  # fmt: skip
    return [choice, table]
