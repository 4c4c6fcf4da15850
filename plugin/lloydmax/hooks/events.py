"""Events: what happens in a run, told to every plugin and to the listeners of that run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pluggy

from lloydmax.errors import PluginError
from lloydmax.hooks import hookspecs, registry
from lloydmax.runtime.memory import give_back
from lloydmax.runtime.seeding import seeded as seeded

if TYPE_CHECKING:
    from lloydmax.codebook.codebook import Codebook


_GIVEN_BACK = 1.0
"""Seconds of a stage after which what it freed so far goes back to the system."""


class StopRecovery(Exception):
    """Raised by a ``lloydmax_step`` hook to end the whole run (a pruned trial)."""


def heard(listeners: Iterable[object]) -> tuple[object, ...]:
    """The listeners of one run.

    Raises:
        PluginError: not a list of objects, a class, or one object twice.
    """
    if isinstance(listeners, (str, bytes, Mapping)) or not isinstance(listeners, Iterable):
        kind = type(listeners).__name__
        raise PluginError(f"listeners is a list of objects with event hooks, not of type {kind}: give listeners=[...]")
    found = tuple(listeners)
    for place, listener in enumerate(found):
        if listener is None or isinstance(listener, type):
            what = "None" if listener is None else f"the class {listener.__name__}"
            raise PluginError(f"listeners[{place}] is {what}: give an object that has event hooks")
        if any(listener is other for other in found[:place]):
            raise PluginError(f"listeners[{place}] ({type(listener).__name__}) is in the list twice")
    return found


class Events:
    """Reports what happens to every plugin and to the listeners of one run.

    Args:
        listeners: plugin objects with event hooks that hear only this run (a progress bar, a trial pruner).

    Raises:
        PluginError: see :func:`heard`; a listener has a hook that does not exist, or one with wrong arguments.
    """

    def __init__(self, listeners: Sequence[object] = ()) -> None:
        self._local = pluggy.PluginManager("lloydmax")
        self._local.add_hookspecs(hookspecs)
        try:
            for listener in heard(listeners):
                self._local.register(listener)
            self._local.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(registry.hook_problem(self._local, error)) from error
        self.seconds: dict[str, float] = {}
        self._open, self._given_back = 0, time.perf_counter()

    def step(self, step: str, index: int, total: int, metrics: dict[str, float] | None = None) -> None:
        """One unit of a stage is done: an optimizer step, a batch, or as many samples as ``index`` says. What was freed
        is given back to the system from time to time."""
        if time.perf_counter() - self._given_back > _GIVEN_BACK:
            give_back()
            self._given_back = time.perf_counter()
        for manager in (registry.manager(), self._local):
            manager.hook.lloydmax_step(step=step, index=index, total=total, metrics=metrics or {})

    def fitted(self, name: str, codebook: Codebook, index: int, total: int) -> None:
        """One parameter got its codebook."""
        for manager in (registry.manager(), self._local):
            manager.hook.lloydmax_parameter_fitted(name=name, codebook=codebook, index=index, total=total)

    def asked_for(self, hook: str) -> bool:
        """Whether anybody implements a hook."""
        return any(getattr(one.hook, hook).get_hookimpls() for one in (registry.manager(), self._local))

    def expected(self, seconds: float, bytes: int) -> None:
        """What the run will take, about."""
        for manager in (registry.manager(), self._local):
            manager.hook.lloydmax_expected(seconds=seconds, bytes=bytes)

    @contextmanager
    def stage(self, stage: str, total: int | None = None) -> Iterator[dict[str, Any]]:
        """A timed stage; put what it measured into the dict that it yields. A stage within a stage is reported, too;
        its time is that of the outer one. What it freed is given back to the system."""
        metrics: dict[str, Any] = {}
        managers = (registry.manager(), self._local)
        for manager in managers:
            manager.hook.lloydmax_stage_started(stage=stage, total=total)
        started = time.perf_counter()
        self._open += 1
        try:
            yield metrics
        finally:
            give_back()
            seconds = time.perf_counter() - started
            self._open -= 1
            if not self._open:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            for manager in managers:
                manager.hook.lloydmax_stage_finished(stage=stage, seconds=seconds, metrics=metrics)
