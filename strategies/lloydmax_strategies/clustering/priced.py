"""Entropy-constrained codebooks: the least squared error plus a price for every bit of an entropy coder.

The iteration is that of Chou, Lookabaugh & Gray (1989), "Entropy-constrained vector quantization", in one dimension,
where the weights of a centroid lie between two thresholds: on the points of a histogram every step is cheap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from lloydmax_strategies.clustering.histogram import Points
from lloydmax_strategies.clustering.partition import Floats

_ROUNDS, _SETTLED = 200, 1e-6


@dataclass(frozen=True)
class Priced:
    """A codebook and what it costs.

    Attributes:
        centroids: float64 ``(k,)``, ascending.
        thresholds: float64 ``(k - 1,)``; a weight above ``thresholds[j]`` belongs to a centroid beyond j.
        bits: entropy of the codes, in bits a weight.
    """

    centroids: Floats
    thresholds: Floats
    bits: float


def thresholds(centroids: Floats, bits: Floats, price: float) -> Floats:
    """Where ``(w - c) ** 2 + price * bits`` of neighbouring centroids is equal, ascending."""
    gap = np.diff(centroids)
    middle = (centroids[1:] + centroids[:-1]) / 2
    shifted = middle + price * np.diff(bits) / (2 * np.where(gap > 0, gap, np.inf))
    return np.maximum.accumulate(shifted)


def solve(points: Points, k: int, price: float) -> Priced:
    """At most k centroids that (locally) minimize the mean of ``(w - c) ** 2 + price * bits``.

    It starts from evenly spaced centroids whose distance is the best one for this price at high rates, or from those
    without a price where k does not reach that far. Centroids that no weight wants any more are dropped.

    Args:
        points: of the weight.
        k: centroids at most.
        price: of one bit, in squared units of the weight, greater than 0.
    """
    centroids = _evenly(points, k, price)
    if centroids is None:
        centroids = points.solve(k, torch.float64)[0].numpy() if len(points.mass) > k else np.unique(points.middle)
    everything = points.total[-1]
    bits = np.zeros(len(centroids))
    for _ in range(_ROUNDS):
        limits = thresholds(centroids, bits, price)
        total, moment = (np.concatenate([[0.0], part]) for part in _up_to_end(points, limits))
        mass = np.diff(total)
        kept = mass > 1e-9 * everything
        means = np.diff(moment)[kept] / mass[kept] + points.centre
        settled = kept.all() and (np.abs(means - centroids) <= _SETTLED * np.abs(centroids).max()).all()
        centroids, bits = means, -np.log2(mass[kept] / everything)
        if settled:
            break
    return Priced(centroids, thresholds(centroids, bits, price), float((mass[kept] * bits).sum() / everything))


def _up_to_end(points: Points, limits: Floats) -> tuple[Floats, Floats]:
    """Mass and moment up to each threshold and of everything; the moment counts from minus infinity."""
    total, moment = points.up_to(limits)
    start = points.moment[0]
    return np.append(total, points.total[-1]), np.append(moment, points.moment[-1]) - start


def _evenly(points: Points, k: int, price: float) -> Floats | None:
    step = math.sqrt(6 * price / math.log(2))
    centre = float((points.mass * points.middle).sum() / points.total[-1])
    below, above = ((centre - points.low[0]) / step, (points.high[-1] - centre) / step)
    if not math.isfinite(below + above) or math.ceil(below) + math.ceil(above) + 1 > k:
        return None
    return centre + step * np.arange(-math.ceil(below), math.ceil(above) + 1)
