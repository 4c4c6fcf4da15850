"""What the demo found, as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lloydmax.report.figures import Figures
from lloydmax.runtime.text import new_table, percent, size

if TYPE_CHECKING:
    from rich.table import Table


def demo_table(report: Figures) -> Table:
    """Accuracy and size from the original to the recovered model."""
    table = new_table(title="Demo: a ResNet for Fashion-MNIST, recovered on animal silhouettes", spare=("times smaller",))
    table.add_column("stage")
    for name in ("test accuracy", "size", "times smaller"):
        table.add_column(name, justify="right")
    original = report.bytes.original
    table.add_row("original (float32)", percent(report.stages[0].score), size(original), "1.0")
    for stage in report.stages[1:]:
        table.add_row(stage.name, percent(stage.score), size(report.bytes.file), f"{original / report.bytes.file:.1f}")
    return table
