"""A plan as a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lloydmax.runtime.text import new_table

if TYPE_CHECKING:
    from rich.table import Table


def plan_table(title: str, summary: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    """One line for each compressed parameter.

    Args:
        title: above the table.
        summary: below it.
        rows: as :meth:`lloydmax.Plan.rows` gives them.
    """
    table = new_table(title=title, caption=summary, spare=("type", "granularity", "layer", "trained", "shape", "bits"))
    for name in ("layer", "parameter", "type"):
        table.add_column(name, overflow="fold")
    for name in ("shape", "centroids", "granularity", "bits", "bytes", "trained"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            "" if row["layer"] is None else str(row["layer"]),
            row["parameter"],
            row["type"],
            "x".join(map(str, row["shape"])),
            str(row["centroids"]),
            row["granularity"],
            f"{row['bits']:.3g}",
            f"{row['bytes']:,}",
            "yes" if row["trained"] else "no",
        )
    return table
