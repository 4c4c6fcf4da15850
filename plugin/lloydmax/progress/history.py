"""The curves of the recovery: what steps tell of their progress, thinned to what a picture shows."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

from lloydmax.hooks.hookspecs import hookimpl

POINTS = 256
"""Of a curve at most: more than a picture is wide."""


class History:
    """An event listener that keeps every metric of every step as a curve of at most :data:`POINTS` points."""

    def __init__(self) -> None:
        self._curves: dict[str, dict[str, _Curve]] = {}
        self._totals: dict[str, int] = {}

    @hookimpl
    def lloydmax_step(self, step: str, index: int, total: int, metrics: dict[str, float]) -> None:
        """Keep the metrics of one step."""
        for name, value in metrics.items():
            if math.isfinite(value):
                self._curves.setdefault(step, {}).setdefault(name, _Curve()).add(index, value)
                self._totals[step] = total

    def state(self) -> dict[str, Any]:
        """All that is kept now, as plain data, for a run that goes on after a kill."""
        curves = {step: {name: vars(curve) for name, curve in own.items()} for step, own in self._curves.items()}
        return copy.deepcopy({"curves": curves, "totals": self._totals})

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._totals = dict(state["totals"])
        self._curves = {
            step: {name: _Curve(**kept) for name, kept in own.items()} for step, own in state["curves"].items()
        }

    def take(self, step: str) -> dict[str, Any]:
        """What was kept of a step since it was last taken (JSON-able): ``{"history": {"total": steps of the optimizer,
        "curves": {metric: [[index, value], ...]}}}``; empty where it told nothing."""
        if (curves := self._curves.pop(step, None)) is None:
            return {}
        kept = {name: curve.points() for name, curve in curves.items()}
        return {"history": {"total": self._totals.pop(step), "curves": kept}}


@dataclass
class _Curve:
    """Every ``stride``-th point and the last one; the stride doubles when there are too many."""

    kept: list[list[float]] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    seen: int = 0
    stride: int = 1

    def add(self, index: int, value: float) -> None:
        self.last = [index, float(f"{value:.6g}")]
        if self.seen % self.stride == 0:
            self.kept.append(self.last)
        self.seen += 1
        if len(self.kept) == POINTS:
            self.kept, self.stride = self.kept[::2], 2 * self.stride

    def points(self) -> list[list[float]]:
        return self.kept if (self.seen - 1) % self.stride == 0 else [*self.kept, self.last]
