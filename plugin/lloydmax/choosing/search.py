"""The budget search: the centroids of every layer with the least damage that a budget allows, without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lloydmax.choosing.resolving import resolved_recipe
from lloydmax.choosing.rows import Units
from lloydmax.choosing.searching import Searcher, Trial
from lloydmax.choosing.sweep import Sweep
from lloydmax.choosing.sweeping import Settings, opened, swept
from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.hooks.events import heard
from lloydmax.hooks.options import Refused, accepted
from lloydmax.hooks.protocols import SearchMethod
from lloydmax.hooks.units import BudgetError
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.search import Budget, Search
from lloydmax.runtime import files
from lloydmax.runtime.arguments import whole
from lloydmax.runtime.cache import Cache
from lloydmax.runtime.modes import own_modes
from lloydmax.runtime.text import new_table, percent, render, size
from lloydmax.teacher.agreement import Agreement

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class SearchResult:
    """What :func:`search` gives back; ``print(result)`` is two tables.

    Attributes:
        recipe: the answer: the recipe with one rule for everything that gets the same centroids, ready to
            :func:`lloydmax.compress` with or :meth:`lloydmax.Recipe.save`.
        method: name of the search method.
        budget: that was kept.
        found: the choice, predicted and measured.
        uniform: the same number of centroids for all, the largest that keeps the budget, where there is one.
        sweep: that the choice was made from.
        tried: how many choices were measured on the whole model.
    """

    recipe: Recipe
    method: str
    budget: Budget
    found: Trial
    uniform: Trial | None
    sweep: Sweep
    tried: int

    @property
    def predicted(self) -> float:
        """Damage that the additive model predicted."""
        return self.found.predicted

    @property
    def measured(self) -> Agreement:
        """The whole compressed model against the teacher, before recovery."""
        return self.found.measured

    @property
    def budget_text(self) -> str:
        """The budget in words."""
        name, value = self.budget.given
        return f"{name} {value}"

    def rows(self) -> Iterator[dict[str, Any]]:
        """One plain dict for each unit."""
        for unit in self.sweep.units():
            option = unit.option(self.found.choice[unit.name])
            yield {"unit": unit.name, "weights": unit.weights, **asdict(option)}

    def compared(self) -> Iterator[tuple[str, Trial]]:
        """The choice, and the uniform one."""
        yield "searched", self.found
        if self.uniform is not None:
            yield f"uniform {max(self.uniform.choice.values())}", self.uniform

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "method": self.method,
            "budget": dict([self.budget.given]),
            "found": asdict(self.found),
            "uniform": self.uniform and asdict(self.uniform),
            "tried": self.tried,
            "units": list(self.rows()),
            "recipe": self.recipe.data(),
            "sweep": self.sweep.to_dict(),
        }

    def to_json(self, path: str | Path) -> None:
        """Write the result as JSON.

        Raises:
            OutputError: the folder is missing or not writable, the disk is full.
        """
        files.write_json(path, self.to_dict())

    def __str__(self) -> str:
        return render(*_tables(self))


def search(
    model: nn.Module,
    recipe: Any,
    data: Any,
    budget: Mapping[str, float] | Budget | None = None,
    method: str | None = None,
    *,
    centroids: Sequence[int] | None = None,
    samples: int | None = None,
    units: Units = "parameters",
    estimate: bool = True,
    corrections: int = 4,
    seed: int | None = None,
    workdir: str | Path | None = None,
    cache: Cache | None = None,
    progress: bool = False,
    example_inputs: Any = None,
    tokenizer: Any = None,
    listeners: Sequence[object] = (),
) -> SearchResult:
    """Choose the centroids of every layer: the least damage under a budget, or the smallest file that agrees enough.

    A sweep predicts what every choice does alone; the search method chooses as if damages added up; then the whole
    compressed model is measured, and corrected: its own gradient tells what every change of one unit would do now,
    the method chooses again, and what measures better is kept. The result is never worse, on the samples that
    counted, than the same number of centroids for all within the same budget.

    Args:
        model: the teacher; never modified.
        recipe: anything that :meth:`Recipe.load` takes; see :func:`lloydmax.sweep` for what is tried.
        data: unlabelled inputs, see :func:`lloydmax.compress`.
        budget: ``{"reduction": 0.9}`` of the real file, ``{"bits": 3}`` for an average quantized weight (codebooks
            counted), ``{"bytes": 1_000_000}`` of the file, or ``{"agreement": 0.99}`` before recovery; ``None``: that
            of the recipe's ``search`` section.
        method: a registered search method; ``None``: the section's (default ``lagrangian``).
        centroids, samples, units, estimate, seed, workdir, cache, progress, example_inputs, tokenizer, listeners: see
            :func:`lloydmax.sweep`.
        corrections: how often at most the choice is corrected.

    Raises:
        BudgetError: nothing that may be chosen keeps the budget; before the first forward pass where that can be told.
        RecipeError: no budget, or an invalid one, and as for :func:`lloydmax.sweep`.
    """
    recipe = Recipe.load(recipe)
    section = recipe.search or Search()
    wanted = _budget(budget, section, recipe)
    name = method or section.method
    chooser: SearchMethod = registry.make(
        "search method", name, section.options if name == section.method else {}, RecipeError
    )
    settings = Settings(
        centroids, samples, units, estimate, seed, workdir, cache, progress, example_inputs, tokenizer, heard(listeners)
    )
    corrections = whole("corrections", corrections, RecipeError, least=0)
    with own_modes(), _placed(recipe, wanted), opened(model, recipe, data, settings, wanted) as trials:
        sweep, projected = swept(trials)
        run = Searcher(trials, sweep.units(), projected, chooser, corrections)
        with trials.bench.events.stage("search"):
            found, uniform = run.agreeing(wanted.agreement) if wanted.agreement else run.within(wanted)
        tried = len(run.trials)
        answer = resolved_recipe(recipe, trials.plan, trials.choices(found.choice))
    return SearchResult(answer, name, wanted, found, uniform, sweep, tried)


def _budget(budget: Mapping[str, float] | Budget | None, section: Search, recipe: Recipe) -> Budget:
    if budget is None:
        if section.budget is None:
            raise RecipeError(
                f"{recipe.at('search', 'budget')}: a search needs a budget: one of reduction, bits, agreement, bytes, "
                "such as {bits: 3}"
            )
        return section.budget
    try:
        return budget if isinstance(budget, Budget) else accepted(Budget, budget)
    except Refused as refused:
        raise RecipeError(f"budget: {'; '.join(text for _, text in refused.problems)}") from None


@contextmanager
def _placed(recipe: Recipe, budget: Budget) -> Iterator[None]:
    """A budget that cannot be kept is told with its place, where it stands in the recipe."""
    try:
        yield
    except BudgetError as error:
        if recipe.search is None or budget is not recipe.search.budget:
            raise
        raise type(error)(f"{recipe.at('search', 'budget')}: {error}") from error


def _tables(result: SearchResult) -> list[RenderableType]:
    """The choice, and what it was predicted and measured to do."""
    choice = new_table(f"Centroids that {result.method} chose for {result.budget_text}", spare=("weights",))
    choice.add_column("unit", overflow="fold")
    for name in ("weights", "centroids", "bytes", "damage alone"):
        choice.add_column(name, justify="right")
    for row in result.rows():
        choice.add_row(
            row["unit"], f"{row['weights']:,}", str(row["centroids"]), f"{row['bytes']:,}", f"{row['damage']:.2g}"
        )
    spare = ("damage predicted", "output MSE", "KL (nats)", "smaller", "bits a weight")
    table = new_table("The whole model, before recovery", spare=spare)
    table.add_column("choice")
    for name in ("bits a weight", "file", "smaller", "damage predicted", "KL (nats)", "agreement", "output MSE"):
        table.add_column(name, justify="right")
    for name, trial in result.compared():
        found = trial.measured
        table.add_row(
            name, f"{trial.bits:.3f}", size(trial.file_bytes), percent(trial.reduction), f"{trial.predicted:.3g}",
            "–" if found.kl is None else f"{found.kl:.5f}", percent(found.agreed), f"{found.mse:.3g}",
        )  # fmt: skip
    return [choice, table]
