"""Tuning: what trials share, and what INC's ``autotune`` does not say (a missed goal, an unusable metric)."""

from __future__ import annotations

import functools
import math
import re
import warnings
import weakref
from dataclasses import dataclass
from typing import Any

from torch import nn

from lloydmax.errors import IntegrationError
from lloydmax.integrations.inc.host import BaseConfig, TuningMonitor, tuning
from lloydmax.runtime.cache import Cache
from lloydmax.runtime.digest import fingerprint, model_fingerprint

_live_cache: weakref.ref[Cache] | None = None
_LOWER_IS_BETTER = re.compile(
    r"ppl|perplex|loss|nll|(^|_)(ce|bpb|mse|rmse|mae|wer|cer|fid|error|err)(_|$)", re.IGNORECASE
)
_BETTER = 1.01
"""By so much no metric of a compressed model, such as a percentage, is above the original's by luck."""
_MUCH_BETTER = 1.5
"""The same for fractions, which a few samples change a lot."""


@dataclass
class Watch:
    """One tuning run as seen from its trials; must not hold the monitor, whose end it waits for."""

    history: list[Any]
    baseline: float
    goal: float
    most: int
    started: int = 0
    told: bool = False

    def look(self) -> None:
        """Warn, once, where compressed models are far better than the original, so that the metric is a loss."""
        best = max((float(record.trial_result) for record in self.history), default=-math.inf)
        above = self.baseline * (_BETTER if self.baseline >= 1 else _MUCH_BETTER)
        if not self.told and 0 < above < best:
            self.told = True
            warnings.warn(
                f"a compressed model has {best:.6g} where the original has {self.baseline:.6g}, and INC takes the "
                f"higher as the better: if eval_fn gives a perplexity or a loss, {_INSTEAD}",
                stacklevel=3,
            )

    def report(self) -> None:
        """Called when ``autotune`` lets go of its monitor."""
        self.look()
        results = [float(record.trial_result) for record in self.history]
        if self.started > len(results) or any(result >= self.goal for result in results):
            return  # an exception ended it, or the goal is reached
        best = f"the best of {len(results)} is {max(results):.6g}"
        if len(results) < self.most:
            what = f"it tried {len(results)} of {self.most} configurations ({best}), so autotune returns None"
        else:
            what = f"{best}; autotune returns that model all the same"
        warnings.warn(
            f"no configuration reached the accuracy goal of {self.goal:.6g}: {what}. Offer more centroids or a "
            "recovery step, or raise tolerable_loss in TuningConfig",
            stacklevel=2,
        )


_INSTEAD = "let it return 1 / perplexity, or 1 / (1 + loss)"
_watches: weakref.WeakKeyDictionary[TuningMonitor, Watch] = weakref.WeakKeyDictionary()


class Trials:
    """What the configurations that one ``expand`` made have in common. Each call of ``autotune`` expands anew.

    Attributes:
        cache: of the tuning run, which its other configurations share.
    """

    def __init__(self, source: BaseConfig) -> None:
        self.cache = _shared_cache()
        self._source = source

    def are_of(self, monitor: TuningMonitor) -> bool:
        """Whether INC tries them in the run of this monitor."""
        tried = monitor.tuning_config.config_set
        members = tried if isinstance(tried, list) else [tried]
        return any(self._source is one for member in members for one in getattr(member, "config_list", [member]))

    def fingerprint(self, model: nn.Module) -> bytes:
        """Of the copy that a trial was given: looked into once for all copies of the same values, made while nobody
        gives the attributes of INC's original others."""
        original = tuning().get("model", model)
        held = tuple((id(one), *map(id, vars(one).values())) for one in original.modules())
        key = ("fingerprint", held, fingerprint((*model.parameters(), *model.buffers())))
        return self.cache.get(key, lambda: model_fingerprint(model))


def watch(trials: Trials | None) -> Watch | None:
    """Check the metric of the ``autotune`` call that a trial runs in, if any, and watch how it ends.

    Returns:
        One object for each call of ``autotune``; ``None`` outside of it.

    Raises:
        IntegrationError: the baseline is a metric that INC cannot tune by.
    """
    run = {} if trials is None else tuning()
    monitor = run.get("tuning_monitor")
    if trials is None or monitor is None or not trials.are_of(monitor):
        return None
    ended = bool(monitor.tuning_history) and monitor.need_stop()
    if monitor not in _watches:
        _doubt(run.get("eval_fn"))
        goal = _goal(monitor.baseline, monitor.tuning_config.tolerable_loss)
        found = Watch(monitor.tuning_history, float(monitor.baseline), goal, monitor.tuning_config.max_trials)
        weakref.finalize(monitor, found.report).atexit = False
        _watches[monitor] = found
    if not ended:
        _watches[monitor].started += 1
        _watches[monitor].look()
    return _watches[monitor]


def _doubt(eval_fn: Any) -> None:
    """Warn of a metric whose name says that lower is better."""
    while isinstance(eval_fn, functools.partial):
        eval_fn = eval_fn.func
    name = getattr(eval_fn, "__name__", type(eval_fn).__name__)
    if _LOWER_IS_BETTER.search(name):
        warnings.warn(
            f"eval_fn is called {name!r}, and INC takes the higher result as the better: where it is lower that is "
            f"better, {_INSTEAD}",
            stacklevel=2,
        )


def _goal(baseline: Any, tolerable_loss: float) -> float:
    try:
        value = float(baseline)
    except (TypeError, ValueError):
        raise IntegrationError(f"eval_fn must return one number, higher is better; it returned {baseline!r}") from None
    if not math.isfinite(value):
        raise IntegrationError(f"the metric of the original model is {value}: eval_fn must return a finite number")
    if value == 0:
        raise IntegrationError(
            "the metric of the original model is 0, and INC compares by the ratio to it: check eval_fn, or return "
            "a metric that is above 0 for the original, such as accuracy"
        )
    if value < 0:
        warnings.warn(
            f"the metric of the original model is negative ({value:.6g}): INC's goal, "
            f"{value * (1 - tolerable_loss):.6g}, is then stricter than the original itself; return a positive metric "
            "where higher is better, such as 1 / (1 + loss) for a loss",
            stacklevel=2,
        )
    return value * (1 - tolerable_loss)


def _shared_cache() -> Cache:
    """The cache of the tuning run in progress: it lives as long as any trial configuration does."""
    global _live_cache
    cache = None if _live_cache is None else _live_cache()
    if cache is None:
        cache = Cache()
        _live_cache = weakref.ref(cache)
    return cache
