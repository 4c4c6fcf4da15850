"""TODO docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from lloydmax.runtime.text import percent, size

if TYPE_CHECKING:
    from lloydmax.plan.plan import Plan


def plan_table(plan: Plan) -> Table:
    """One line for each compressed parameter, and the totals."""
    kept = plan.total_weights - sum(p.weights for p in plan.parameters.values())
    trained = len(plan.trainable - set(plan.parameters))
    summary = (
        f"{kept:,} other weights stay floats, {trained} tensors of them trained\n"
        f"{plan.model}: {size(plan.original_bytes)} -> {size(plan.predicted_bytes)}, "
        f"{percent(plan.reduction)} smaller ({plan.original_bytes / plan.predicted_bytes:.1f} times)"
    )
    table = Table(title=f"Plan of recipe {plan.recipe.name!r}", caption=summary, title_justify="left")
    for name in ("layer", "parameter", "type"):
        table.add_column(name, overflow="fold")
    for name in ("shape", "centroids", "granularity", "bits", "bytes", "centroids are"):
        table.add_column(name, justify="right")
    for row in plan.rows():
        table.add_row(
            "" if row["layer"] is None else str(row["layer"]),
            row["parameter"],
            row["type"],
            "x".join(map(str, row["shape"])),
            str(row["centroids"]),
            row["granularity"],
            f"{row['bits']:.3g}",
            f"{row['bytes']:,}",
            "trained" if row["trained"] else "frozen",
        )
    return table
