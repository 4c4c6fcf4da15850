"""The curves of the recovery: what steps tell of their progress, thinned to what a picture shows."""

from __future__ import annotations

import math
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

    def take(self, step: str) -> dict[str, Any]:
        """What was kept of a step since it was last taken (JSON-able): ``{"history": {"total": steps of the optimizer,
        "curves": {metric: [[index, value], ...]}}}``; empty where it told nothing."""
        if (curves := self._curves.pop(step, None)) is None:
            return {}
        kept = {name: curve.points() for name, curve in curves.items()}
        return {"history": {"total": self._totals.pop(step), "curves": kept}}


class _Curve:
    """Every ``stride``-th point and the last one; the stride doubles when there are too many."""

    def __init__(self) -> None:
        self._kept: list[list[float]] = []
        self._last: list[float] = []
        self._seen, self._stride = 0, 1

    def add(self, index: int, value: float) -> None:
        self._last = [index, float(f"{value:.6g}")]
        if self._seen % self._stride == 0:
            self._kept.append(self._last)
        self._seen += 1
        if len(self._kept) == POINTS:
            self._kept, self._stride = self._kept[::2], 2 * self._stride

    def points(self) -> list[list[float]]:
        return self._kept if self._kept[-1] is self._last else [*self._kept, self._last]
