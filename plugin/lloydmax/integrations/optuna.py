"""Optuna: a recipe's lists as a study's parameters, and pruning through the plugin's events.

    def objective(trial):
        recipe = lloydmax.Recipe.load("recipe.yaml").suggest(trial)      # every list becomes a parameter
        result = lloydmax.compress(model, recipe, data, cache=cache, listeners=[PruneTrial(trial)])
        return result.report.agreement.after

Optuna prunes single-objective studies only: leave :class:`PruneTrial` out where an objective returns several values.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lloydmax.document import field_name
from lloydmax.errors import IntegrationError, RecipeError
from lloydmax.hookspecs import hookimpl

if TYPE_CHECKING:
    from lloydmax.recipe import Recipe

_PLAIN = (type(None), bool, int, float, str)


def suggestion(recipe: Recipe, trial: Any) -> dict[str, Any]:
    """What a trial chooses from a recipe's lists, by field name such as ``"quantize[1].centroids"``.

    Raises:
        RecipeError: the recipe has no lists.
    """
    chosen = {}
    for where, values in recipe.choices().items():
        name = field_name(where)
        if all(isinstance(value, _PLAIN) for value in values):
            chosen[name] = trial.suggest_categorical(name, values)
        else:  # Optuna keeps plain values only
            words = {json.dumps(value, sort_keys=True): value for value in values}
            chosen[name] = words[trial.suggest_categorical(name, list(words))]
    if not chosen:
        raise RecipeError(
            f"recipe {recipe.name!r} has nothing to tune: write a list where an option takes one value, "
            "such as centroids: [8, 16, 32]"
        )
    return chosen


class PruneTrial:
    """An event listener that reports a metric of each epoch to a trial and stops the run when the study prunes it.

    Pass it to :func:`lloydmax.compress` as ``listeners=[PruneTrial(trial)]``; ``optuna.TrialPruned`` comes out.

    Args:
        trial: of a single-objective study (Optuna cannot prune others).
        metric: what recovery steps tell in their events: ``agreement`` on held-out inputs after each epoch (0 to 1,
            maximize), or ``loss``.

    Raises:
        IntegrationError: Optuna is not installed, or the study has several objectives.
    """

    def __init__(self, trial: Any, metric: str = "agreement") -> None:
        try:
            import optuna
        except ImportError:
            raise IntegrationError("Optuna is not installed; run: pip install 'lloydmax[optuna]'") from None
        if isinstance(trial, optuna.Trial) and len(trial.study.directions) > 1:
            raise IntegrationError("Optuna prunes studies with one objective only; leave PruneTrial out of this one")
        self._trial, self._metric, self._reports = trial, metric, 0
        self._pruned = optuna.TrialPruned

    @hookimpl
    def lloydmax_step(self, step: str, index: int, metrics: dict[str, float]) -> None:
        """Report, and stop where the pruner says so."""
        if self._metric not in metrics:
            return
        self._trial.report(metrics[self._metric], self._reports)
        self._reports += 1
        if self._trial.should_prune():
            raise self._pruned(f"{step}: {self._metric} {metrics[self._metric]:.4g} at step {index}")
