"""A histogram of a weight that gives a near-optimal codebook for every number of centroids.

One pass over the data makes 65,536 intervals; all the work of k-means is done on them, in float64. How far that
can be trusted is decided by the numbers: where the spread within the intervals is not small against the error
that is left, the intervals that matter most are split into their exact values, up to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from lloydmax import Codebook
from lloydmax.extend import native
from numpy.typing import NDArray
from torch import Tensor

from lloydmax_strategies.clustering.device_scan import DeviceScan
from lloydmax_strategies.clustering.partition import (
    SCARCE,
    Floats,
    desire,
    outward,
    panter_dite,
    partition,
    prefix,
    total_of,
)
from lloydmax_strategies.clustering.scan import KEYS, Scan

_TRUST = 2e-3  # spread within the intervals over the error that is left: up to here nothing is split
_SPLIT = 4  # if more than one weight in so many must be split off, all are
_POINTS = 1 << 21  # exact values beyond this number are merged into as many intervals
_FINEST = 64  # cells per centroid at which it stops
_LLOYD, _SETTLED = 60, 1e-6  # Lloyd's iterations, until no centroid moves by this part of the way to the next


@dataclass(frozen=True)
class Points:
    """Masses spread evenly over disjoint ascending intervals; an interval of width 0 is an exact value."""

    low: Floats
    high: Floats
    mass: Floats
    sums: Floats

    @cached_property
    def middle(self) -> Floats:
        """Mean of each interval."""
        return np.clip(self.sums / self.mass, self.low, self.high)

    @cached_property
    def start(self) -> int:
        """The point in the middle of the mass."""
        return min(int(np.searchsorted(self.total, self.total[-1] / 2, side="right")), len(self.mass)) - 1

    @cached_property
    def centre(self) -> float:
        """Its value; moments are taken about it."""
        return float(self.middle[self.start])

    @cached_property
    def energy(self) -> float:
        """Sum of squares of the means."""
        return float((self.mass * np.square(self.middle)).sum())

    @cached_property
    def mean(self) -> float:
        """Of everything."""
        return float((self.mass * self.middle).sum() / self.total[-1])

    @cached_property
    def total(self) -> Floats:
        """Cumulative mass, from 0."""
        return prefix(self.mass)

    @cached_property
    def moment(self) -> Floats:
        """Cumulative moment about the centre, 0 there."""
        return outward(self.mass * (self.middle - self.centre), self.start)

    @cached_property
    def spread(self) -> Floats:
        """Sum of squares within each interval."""
        return self.mass * np.square(self.high - self.low) / 12

    @cached_property
    def desire(self) -> Floats:
        """How much each interval attracts centroids."""
        return desire(self.middle[None], self.mass[None])

    def up_to(self, values: Floats) -> tuple[Floats, Floats]:
        """Mass and moment of everything not above each value."""
        at = np.searchsorted(self.high, values, side="right")
        inside = np.minimum(at, len(self.mass) - 1)
        low = self.low[inside]
        width = self.high[inside] - low
        wide = width > 0
        part = np.minimum(np.maximum((values - low) / np.where(wide, width, 1), 0), 1)
        part = np.where((at == inside) & wide, part, 0) * self.mass[inside]
        middle = (low + np.minimum(values, low + width)) / 2
        return self.total[at] + part, self.moment[at] + part * (middle - self.centre)

    def solve(self, k: int, dtype: torch.dtype) -> tuple[Tensor, float]:
        """k centroids, fewer than there are points, and their sum of squared errors."""
        finest = max(_FINEST, KEYS // (8 * k))
        if native.active():
            return native.solve_points(self.low, self.high, self.mass, self.sums, k, finest, dtype)
        return self.solve_in_python(k, finest, dtype)

    def solve_in_python(self, k: int, finest: int, dtype: torch.dtype) -> tuple[Tensor, float]:
        """The twin of the native ``solve_points``; ``finest``: cells per centroid at which the search ends."""
        measure, expected = panter_dite(self.desire, k)
        squares = self.mass * np.square(self.middle - self.centre)
        square = outward(squares, self.start)[None] if expected < SCARCE * total_of(squares) else None
        borders = partition(self.total[None], self.moment[None], measure, k, square, finest)[0]
        means = self._means(self.total[borders], self.moment[borders], self.middle[np.maximum(borders[:-1], 1) - 1])
        centroids = torch.from_numpy(means).to(dtype)
        total, moment = self.total[borders], self.moment[borders]
        for _ in range(_LLOYD):
            exact = centroids.double().numpy()
            total[1:-1], moment[1:-1] = self.up_to((exact[1:] + exact[:-1]) / 2)
            means = self._means(total, moment, exact)
            if (np.abs(means - exact)[1:] <= _SETTLED * np.diff(exact)).all():
                break
            centroids = torch.from_numpy(means).to(dtype)
        explained = total_of(np.diff(total) * np.square(means - self.centre))
        return centroids, max(0.0, float(total_of(squares + self.spread) - explained))

    def _means(self, total: Floats, moment: Floats, otherwise: Floats) -> Floats:
        """Means of the clusters between cumulative masses and moments; ``otherwise`` where there is no mass."""
        mass = np.diff(total)
        return np.where(mass > 0, np.diff(moment) / np.where(mass > 0, mass, 1) + self.centre, otherwise)


class Histogram:
    """One weight, ready to be fitted with any number of centroids.

    Args:
        weight: finite, not empty, any shape, float32, float16 or bfloat16.
        importance: optional non-negative weight of each squared error, same shape; it moves the work to the CPU.
    """

    def __init__(self, weight: Tensor, importance: Tensor | None = None) -> None:
        self.shape, self.dtype = weight.shape, weight.dtype
        flat = weight.detach().reshape(-1).contiguous()
        mass = None if importance is None else importance.detach().reshape(-1).contiguous()
        self._device = weight.device
        if weight.device.type == "cpu" or mass is not None:
            self._scan: Scan | DeviceScan = Scan(flat.cpu(), None if mass is None else mass.cpu())
        else:
            self._scan = DeviceScan(flat)
        self._coarse = self._points()

    @classmethod
    def of(cls, weight: Tensor, importance: Tensor | None = None) -> Histogram:
        """The histogram of a weight."""
        return cls(weight, importance)

    def fit(self, k: int) -> Codebook:
        """The codebook with k centroids, granularity ``tensor``.

        The centroids are the exact means of their members, rounded. The codes are nearest to the centroids before
        that last step, which moves none of them by more than a hundredth of the way to the next: a few of 100,000
        weights may end a hair nearer to a neighbour.
        """
        centroids, codes = self._scan.encode(self._solve(k)[1])
        return Codebook(centroids.to(self._device), codes.view(self.shape).to(self._device))

    @property
    def points(self) -> Points:
        """The intervals of one pass, which tell the distribution to about three digits."""
        return self._coarse

    def error(self, k: int) -> float:
        """The mean squared error to expect with k centroids; the weights are not coded."""
        return self._solve(k)[0]

    def _solve(self, k: int) -> tuple[float, Tensor]:
        """The mean squared error to expect, and the centroids."""
        points = self._coarse
        for trust in (_TRUST, _TRUST / 8, 0.0, 0.0):
            within, left = float(points.spread.sum()), 0.0
            if len(points.mass) > k:
                centroids, error = points.solve(k, self.dtype)
                left = max(error - within, 0.0)
            elif within == 0:
                centroids, error = torch.from_numpy(np.unique(points.middle)).to(self.dtype), 0.0
            if within <= _TRUST * left:
                break
            points = self._refined(trust * left / 2)
        return error / float(points.total[-1]), centroids

    def _points(self, split: NDArray[np.bool_] | None = None) -> Points:
        """Intervals of the keys, with the exact values of those in ``split``, a mask, instead."""
        scan = self._scan
        points = scan.low, scan.high, scan.mass, scan.moment
        keep = scan.mass > 0 if split is None else ~split & (scan.mass > 0)
        if not keep.all():
            points = scan.low[keep], scan.high[keep], scan.mass[keep], scan.moment[keep]
        if split is not None:
            single = _merged(*_distinct(*scan.select(split)))
            both = [np.concatenate(pair) for pair in zip(points, single, strict=True)]
            order = np.argsort(both[0], kind="stable")
            return Points(*(part[order] for part in both))
        return Points(*points)

    def _refined(self, target: float) -> Points:
        """Points whose spread within the intervals is at most ``target``."""
        scan = self._scan
        spread = scan.mass * np.square(scan.high - scan.low)
        order = np.argsort(-spread, kind="stable")
        rest = spread.sum() - np.cumsum(spread[order])
        chosen = order[: 1 + int(np.searchsorted(-rest, -12 * target))] if target > 0 else order
        split = np.zeros(len(order), bool)
        split[chosen] = True
        if scan.mass[split].sum() > scan.mass.sum() / _SPLIT:
            split[:] = True
        return self._points(split)


def _distinct(values: NDArray[np.float32], mass: Floats | None) -> tuple[NDArray[np.float32], Floats]:
    """Distinct values with mass, ascending, and the mass of each."""
    if mass is None:
        ordered, weight = np.sort(values), None
    else:
        order = np.argsort(values[mass > 0], kind="stable")
        ordered, weight = values[mass > 0][order], mass[mass > 0][order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if weight is None:
        return ordered[first], np.diff(first, append=len(ordered)).astype(np.float64)
    return ordered[first], np.add.reduceat(weight, first)


def _merged(values: NDArray[np.float32], mass: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Exact values as intervals of width 0, or, if there are very many, short intervals of several values."""
    exact = values.astype(np.float64)
    if len(values) <= _POINTS:
        return exact, exact, mass, mass * exact
    edges = np.searchsorted(panter_dite(desire(exact[None], mass[None]), _POINTS)[0][0], np.linspace(0, 1, _POINTS + 1))
    first = np.unique(np.clip(edges[:-1], 0, len(values) - 1))
    last = np.append(first[1:], len(values)) - 1
    return exact[first], exact[last], np.add.reduceat(mass, first), np.add.reduceat(mass * exact, first)
