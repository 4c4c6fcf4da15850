"""The curve of size and agreement: what a model keeps of its answers at every size, to pick a size from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lloydmax.choosing.resolving import resolved_recipe
from lloydmax.choosing.rows import Units
from lloydmax.choosing.searching import Searcher, Trial
from lloydmax.choosing.sweep import Sweep, check_plot
from lloydmax.choosing.sweeping import Settings, opened, swept
from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.hooks.events import heard
from lloydmax.hooks.protocols import SearchMethod
from lloydmax.hooks.units import BudgetError
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.search import Search
from lloydmax.runtime import files
from lloydmax.runtime.arguments import whole
from lloydmax.runtime.cache import Cache
from lloydmax.runtime.files import path_of, write_bytes
from lloydmax.runtime.modes import own_modes
from lloydmax.runtime.text import new_table, percent, render, size

if TYPE_CHECKING:
    from rich.table import Table

_BAR = 20
"""Characters of a bar in the terminal."""


@dataclass(frozen=True)
class Point:
    """One size.

    Attributes:
        recipe: that gives it, ready to :func:`lloydmax.compress` with.
        trial: what was measured, before recovery.
    """

    recipe: Recipe
    trial: Trial

    @property
    def agreed(self) -> float:
        """Agreement with the original, 0 to 1."""
        return self.trial.measured.agreed or 0.0


@dataclass(frozen=True)
class SearchCurve:
    """What :func:`search_curve` gives back; ``print(curve)`` is a table with a picture.

    Attributes:
        points: by size, ascending; each agrees more than all smaller ones.
        sweep: that the choices were made from.
        wanted: the agreement around which it was measured more closely; ``None``: nowhere.
    """

    points: tuple[Point, ...]
    sweep: Sweep
    wanted: float | None = None

    def pick(self, agreement: float) -> Point:
        """The smallest size that agrees so much.

        Args:
            agreement: 0 to 1.

        Raises:
            BudgetError: none does.
        """
        for point in self.points:
            if point.agreed >= agreement:
                return point
        best = self.points[-1]
        raise BudgetError(
            f"no size reaches an agreement of {percent(agreement, 1)}: the largest, {size(best.trial.file_bytes)}, has "
            f"{percent(best.agreed, 1)} before recovery; allow more centroids, or pick less"
        )

    @property
    def picked(self) -> Point | None:
        """What was asked for; ``None`` where nothing was."""
        return None if self.wanted is None else self.pick(self.wanted)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "points": [asdict(point.trial) | {"recipe": point.recipe.data()} for point in self.points],
            "picked": None if self.picked is None else self.points.index(self.picked),
            "sweep": self.sweep.to_dict(),
        }

    def to_json(self, path: str | Path) -> None:
        """Write the curve as JSON.

        Raises:
            OutputError: the folder is missing or not writable, the disk is full.
        """
        files.write_json(path, self.to_dict())

    def plot(self, path: str | Path) -> None:
        """Draw agreement against the size of the file; the ending decides the format (``.svg``, ``.png``).

        Raises:
            IntegrationError: matplotlib is not installed, or cannot write what the ending names. OutputError: the file
                cannot be written.
        """
        check_plot(path)
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, PercentFormatter

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([p.trial.file_bytes for p in self.points], [p.agreed for p in self.points], marker="o")
        if (picked := self.picked) is not None:
            axes.plot([picked.trial.file_bytes], [picked.agreed], marker="o", markersize=13, fillstyle="none")
            said = f"{size(picked.trial.file_bytes)}, {percent(picked.agreed, 1)}"
            axes.annotate(said, (picked.trial.file_bytes, picked.agreed), (12, -16), textcoords="offset points")
        axes.set(xlim=(0, None), xlabel="size of the file", ylabel="agreement with the original, before recovery")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value).replace(".00", "")))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(alpha=0.3)
        axes.set_title(f"{self.sweep.model}, on {self.sweep.samples:,} of {self.sweep.measured_on}", fontsize="medium")
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path_of(path).suffix.lower()[1:])
        write_bytes(path, drawn.getbuffer())

    def __str__(self) -> str:
        return render(_table(self))


def search_curve(
    model: nn.Module,
    recipe: Any,
    data: Any,
    pick: float | None = None,
    points: int = 12,
    method: str | None = None,
    *,
    centroids: Sequence[int] | None = None,
    samples: int | None = None,
    units: Units = "parameters",
    estimate: bool = True,
    seed: int | None = None,
    workdir: str | Path | None = None,
    cache: Cache | None = None,
    progress: bool = False,
    example_inputs: Any = None,
    tokenizer: Any = None,
    listeners: Sequence[object] = (),
) -> SearchCurve:
    """Measure how much a model agrees with its original at every size, before recovery.

    A sweep predicts what every choice does alone; for sizes from the fewest centroids allowed to the most, evenly by
    their logarithm, the search method chooses, and the whole compressed model is measured.

    Args:
        model: the teacher; never modified.
        recipe: anything that :meth:`Recipe.load` takes; see :func:`lloydmax.sweep` for what is tried.
        data: unlabelled inputs, see :func:`lloydmax.compress`.
        pick: an agreement, 0 to 1: four more sizes are measured where the curve crosses it.
        points: how many sizes are tried, at least 2.
        method, centroids, samples, units, estimate, seed, workdir, cache, progress, example_inputs, tokenizer,
            listeners: see :func:`lloydmax.search`.

    Raises:
        BudgetError: no size reaches ``pick``. RecipeError: ``pick`` is not a share; and as for :func:`lloydmax.sweep`.
    """
    recipe = Recipe.load(recipe)
    points = whole("points", points, RecipeError, least=2)
    if pick is not None and not 0 < pick <= 1:
        raise RecipeError(f"pick is an agreement from 0 to 1, such as 0.98, not {pick!r}")
    section = recipe.search or Search()
    name = method or section.method
    chooser: SearchMethod = registry.make(
        "search method", name, section.options if name == section.method else {}, RecipeError
    )
    settings = Settings(
        centroids, samples, units, estimate, seed, workdir, cache, progress, example_inputs, tokenizer, heard(listeners)
    )
    with own_modes(), opened(model, recipe, data, settings) as trials:
        sweep, projected = swept(trials)
        run = Searcher(trials, sweep.units(), projected, chooser, corrections=0)
        with trials.bench.events.stage("search"):
            found = run.sizes(points, pick)
        made = tuple(Point(resolved_recipe(recipe, trials.plan, trials.choices(t.choice)), t) for t in found)
    curve = SearchCurve(made, sweep, pick)
    if pick is not None:
        curve.pick(pick)
    return curve


def _table(curve: SearchCurve) -> Table:
    on = f"{curve.sweep.samples:,} of {curve.sweep.measured_on}"
    title = f"Size and agreement of {curve.sweep.model}, before recovery, on {on}"
    table = new_table(title, spare=("KL (nats)", "smaller"))
    for name in ("file", "smaller", "bits a weight", "agreement", "KL (nats)"):
        table.add_column(name, justify="right")
    table.add_column("", no_wrap=True)
    for point in curve.points:
        trial, mark = point.trial, "  <- picked" if point is curve.picked else ""
        bar = "█" * round(_BAR * point.agreed)
        kl = trial.measured.kl
        table.add_row(
            size(trial.file_bytes), percent(trial.reduction, 1), f"{trial.bits:.2f}", percent(point.agreed, 1),
            "–" if kl is None else f"{kl:.4f}", f"{bar}{mark}",
        )  # fmt: skip
    return table
