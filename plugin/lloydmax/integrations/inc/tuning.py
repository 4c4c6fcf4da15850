"""Tuning: what trials share, and what INC's ``autotune`` does not say (a missed goal, an unusable metric)."""

from __future__ import annotations

import math
import warnings
import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lloydmax.errors import IntegrationError
from lloydmax.integrations.inc.host import BaseConfig, TuningMonitor, monitors
from lloydmax.runtime.cache import Cache

_live_cache: weakref.ref[Cache] | None = None


@dataclass
class Watch:
    """One tuning run as seen from its trials; must not hold the monitor, whose end it waits for."""

    history: list[Any]
    goal: float
    most: int
    started: int = 0

    def report(self) -> None:
        """Called when ``autotune`` lets go of its monitor."""
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


_watches: weakref.WeakKeyDictionary[TuningMonitor, Watch] = weakref.WeakKeyDictionary()


class Trials:
    """What the configurations that one ``expand`` made have in common. Each call of ``autotune`` expands anew.

    Attributes:
        cache: of the tuning run, which its other configurations share.
    """

    def __init__(self, source: BaseConfig) -> None:
        self.cache = _shared_cache()
        self._source = source
        self._earlier = weakref.WeakSet(monitors())

    @property
    def monitor(self) -> TuningMonitor | None:
        """INC's monitor of the tuning run that these trials belong to; ``None`` outside of it."""
        return None if self._found is None else self._found()

    @cached_property
    def _found(self) -> weakref.ref[TuningMonitor] | None:
        """The monitor that was made after the trials, for a set with the configuration that they come from.

        Two runs that begin at once with the same configuration object cannot be told apart: neither is watched.
        """
        found = [monitor for monitor in monitors() if monitor not in self._earlier and self._are_tried_by(monitor)]
        return weakref.ref(found[0]) if len(found) == 1 else None

    def _are_tried_by(self, monitor: TuningMonitor) -> bool:
        tried = monitor.tuning_config.config_set
        members = tried if isinstance(tried, list) else [tried]
        return any(self._source is one for member in members for one in getattr(member, "config_list", [member]))


def watch(trials: Trials | None) -> Watch | None:
    """Check the baseline of the ``autotune`` call that a trial runs in, if any, and watch how it ends.

    Returns:
        One object for each call of ``autotune``; ``None`` outside of it.

    Raises:
        IntegrationError: the baseline is a metric that INC cannot tune by.
    """
    monitor = None if trials is None else trials.monitor
    if monitor is None:
        return None
    ended = bool(monitor.tuning_history) and monitor.need_stop()
    if monitor not in _watches:
        goal = _goal(monitor.baseline, monitor.tuning_config.tolerable_loss)
        found = Watch(monitor.tuning_history, goal, monitor.tuning_config.max_trials)
        weakref.finalize(monitor, found.report).atexit = False
        _watches[monitor] = found
    if not ended:
        _watches[monitor].started += 1
    return _watches[monitor]


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
