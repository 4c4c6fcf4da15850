"""The fitness of sets of inputs as a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lloydmax.runtime.text import new_table, percent

if TYPE_CHECKING:
    from rich.table import Table

    from lloydmax.teacher.fitness import Fitness


def fitness_table(sets: Sequence[Fitness]) -> Table:
    """One line for each set of inputs, in their order."""
    normed = any(fitness.distance is not None for fitness in sets)
    classes = any(fitness.class_use is not None for fitness in sets)
    by = "distance of batch-norm statistics"
    if not normed:
        by = f"{'use of the classes' if classes else 'variety of the outputs'} (the model has no batch norm)"
    title, spare = "How well sets of inputs suit the model, best first", ("variety", "confidence", "samples")
    table = new_table(title, caption=f"By {by}", spare=spare)
    table.add_column("inputs", overflow="fold")
    for name in ("distance", "class use", "confidence", "variety", "samples"):
        table.add_column(name, justify="right")
    for fitness in sets:
        table.add_row(
            fitness.name,
            "–" if fitness.distance is None else f"{fitness.distance:.4f}",
            percent(fitness.class_use, 1),
            percent(fitness.confidence, 1),
            percent(fitness.variety, 1),
            f"{fitness.samples:,}",
        )
    return table
