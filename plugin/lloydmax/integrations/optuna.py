"""Optuna: a recipe's lists as a study's parameters, and pruning through the plugin's events.

    def objective(trial):
        recipe = lloydmax.Recipe.load("recipe.yaml").suggest(trial)      # every list becomes a parameter
        result = lloydmax.compress(model, recipe, data, cache=cache, listeners=[PruneTrial(trial)])
        return result.report.agreement.after

Optuna prunes single-objective studies only: leave :class:`PruneTrial` out where an objective returns several values.
"""

from __future__ import annotations

from typing import Any

from lloydmax.errors import IntegrationError
from lloydmax.hooks.hookspecs import hookimpl
from lloydmax.integrations.absent import absent
from lloydmax.recipe.choices import suggestion

__all__ = ["PruneTrial", "suggestion"]


class PruneTrial:
    """An event listener that reports a metric of each epoch to a trial and stops the run when the study prunes it.

    Pass it to :func:`lloydmax.compress` as ``listeners=[PruneTrial(trial)]``; ``optuna.TrialPruned`` comes out.

    Args:
        trial: of a single-objective study (Optuna cannot prune others).
        metric: what recovery steps tell in their events: ``agreement`` on held-out inputs after each epoch (0 to 1,
            maximize), or ``loss``.

    Raises:
        IntegrationError: Optuna cannot be imported, this is not a trial, or the study has several objectives.
    """

    def __init__(self, trial: Any, metric: str = "agreement") -> None:
        try:
            import optuna
        except ImportError as error:
            raise absent("Optuna", ("optuna",), "optuna", error) from error
        if not (hasattr(trial, "report") and hasattr(trial, "should_prune")):
            raise IntegrationError(f"PruneTrial takes an optuna.Trial, not of type {type(trial).__name__}")
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
