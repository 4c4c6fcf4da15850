"""The sweep: what every number of centroids costs and harms in every layer, one layer at a time, without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lloydmax.choosing.rows import Row, Units
from lloydmax.hooks.units import Option, Unit
from lloydmax.runtime import files
from lloydmax.runtime.cache import Cache


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


def sweep(
    model: nn.Module,
    recipe: Any,
    data: Any,
    centroids: Sequence[int] | None = None,
    *,
    samples: int | None = None,
    units: Units = "parameters",
    estimate: bool = True,
    seed: int | None = None,
    workdir: str | Path | None = None,
    cache: Cache | None = None,
    progress: bool = False,
    example_inputs: Any = None,
    listeners: Sequence[object] = (),
) -> Sweep:
    """For everything that a recipe selects and every number of centroids, the damage it alone does, and its bytes.

    Recovery is left out, but for steps that change the weights before the codebooks are fitted.

    Args:
        model: the teacher; never modified.
        recipe: anything that :meth:`Recipe.load` takes. A rule's list of ``centroids`` is what is tried for it. A
            rule with one value keeps it where the recipe has lists elsewhere; otherwise, and for rules without
            ``centroids``, the argument ``centroids`` is tried.
        data: unlabelled inputs, see :func:`lloydmax.compress`.
        centroids: the numbers to try; ``None``: those of the recipe's ``search`` section (default 2, 4 ... 256).
        samples: how many inputs count, drawn with the seed; ``None``: the section's (default 500).
        units: ``parameters`` are tried one by one, ``rules`` all that a rule selects together.
        estimate: estimate all from gradients at a tenth of the cost or less, and measure a few of them to check;
            ``False``: measure everything.
        seed: of all randomness; ``None``: the recipe's.
        workdir: a folder in which every measurement is kept; a run that was killed goes on from there.
        cache: shared with other runs over the same model and data.
        progress: show progress on stderr.
        example_inputs: see :func:`lloydmax.compress`.
        listeners: plugin objects whose event hooks hear only this run.

    Raises:
        RecipeError: see :func:`lloydmax.plan`, or a choice of something else than centroids. DataError, FitError.
        RecoveryError: no gradient reaches the weights (then ``estimate=False`` helps).
    """
    from lloydmax.choosing.sweeping import Settings, opened, swept

    settings = Settings(
        centroids, samples, units, estimate, seed, workdir, cache, progress, example_inputs, tuple(listeners)
    )
    with opened(model, recipe, data, settings) as trials:
        return swept(trials)[0]
