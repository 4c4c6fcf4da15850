"""Entropy-constrained codebooks: the least squared error plus a price for every bit of codes and centroids.

The iteration is that of Chou, Lookabaugh & Gray (1989), "Entropy-constrained vector quantization", in one dimension,
where the weights of a centroid lie between two thresholds: on the points of a histogram every step is cheap.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from lloydmax import Codebook
from lloydmax.extend import cheapest, code_dtype, native
from torch import Tensor

from lloydmax_strategies.clustering.histogram import Points
from lloydmax_strategies.clustering.partition import Floats

_ROUNDS, _FEW, _SETTLED = 100, 12, 1e-5  # rounds of a fit and of a rate, at most; how far centroids still move
_CHUNK = 1 << 22  # weights that are given codes at once
_LARGE, _CLOSER = 256, 2**-0.125  # above so many centroids they start evenly; by what their distance is then tried
_TERMS = 11  # of the series of the logarithm
_SURPLUS = 2  # times as many centroids as there may be, in the beginning: some are dropped


@dataclass(frozen=True)
class Priced:
    """A codebook and what it costs.

    Attributes:
        centroids: float64 ``(k,)``, ascending, the means of their members.
        thresholds: float64 ``(k - 1,)``; a weight above ``thresholds[j]`` belongs to a centroid beyond j.
        bits: entropy of the codes and the codebook itself, in bits a weight.
        gain: mean of weight times centroid over the mean square of the weights.
    """

    centroids: Floats
    thresholds: Floats
    bits: float
    gain: float


def fit_priced(weight: Tensor, points: PricedPoints, price: float) -> Codebook:
    """The codebook of a weight, granularity ``tensor``, each centroid the exact mean of its members.

    Args:
        weight: finite, not empty, any shape and device.
        points: of the weight, and how many centroids there are at most.
        price: of one bit, in squared units of the weight, greater than 0.
    """
    found = solve(points.points, points.k, price, points.start)
    codes = torch.empty(weight.numel(), dtype=code_dtype(len(found.centroids)))
    assign = native.assign if native.active() else assign_in_python
    count, total = (torch.zeros(len(found.centroids), dtype=torch.float64) for _ in range(2))
    for start, part in enumerate(weight.detach().reshape(-1).split(_CHUNK)):
        here = codes[start * _CHUNK :][: len(part)]
        counts, sums = assign(part.cpu().float().contiguous(), found.thresholds, here)
        count += counts
        total += sums
    means = torch.where(count > 0, total / count.clamp(min=1), torch.from_numpy(found.centroids)).to(weight.dtype)
    return Codebook(means.to(weight.device), codes.view(weight.shape).to(weight.device), price=price)


def assign_in_python(values: Tensor, limits: Floats, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The twin of the native ``assign``."""
    exact = values.double()
    index = torch.bucketize(exact, torch.from_numpy(limits))
    codes.copy_(index)
    count = torch.bincount(index, minlength=len(limits) + 1).double()
    return count, torch.bincount(index, exact, minlength=len(limits) + 1)


def unpriced(points: Points, k: int) -> Floats:
    """At most k centroids with the least squared error; many are spaced evenly, as closely as k allows."""
    if len(points.mass) <= k:
        return np.unique(points.middle)
    if k <= _LARGE:
        return points.solve(k, torch.float64)[0].numpy()
    step = (points.middle[-1] - points.middle[0]) / (k - 1)
    found = closer = _evenly(points, step, k + 1)  # as many where both ends are half a step beyond
    while closer is not None:
        found, step = closer, step * _CLOSER
        closer = _evenly(points, step, k)
    assert found is not None
    return found


class PricedPoints:
    """The points of a weight, and what serves all prices of a bit.

    Args:
        points: of the weight.
        k: centroids at most.
    """

    def __init__(self, points: Points, k: int) -> None:
        self.points, self.k = points, k
        self.start = functools.cache(lambda: unpriced(points, k))

    def rate(self, price: float) -> tuple[float, float]:
        """What :class:`Priced` calls bits and gain, nearly, at a price of more than 0."""
        found = solve(self.points, self.k, price, self.start, _FEW)
        return found.bits, found.gain


def solve(
    points: Points, k: int, price: float, otherwise: Callable[[], Floats] | None = None, rounds: int = _ROUNDS
) -> Priced:
    """At most k centroids that (locally) minimize the mean of ``(w - c) ** 2 + price * bits``, where the bits of a
    centroid itself are borne by its members.

    It starts from evenly spaced centroids whose distance is the best one for this price at high rates, or, where these
    leave more than k, from those without a price. Centroids that no weight wants any more are dropped.

    Args:
        points: of the weight.
        k: centroids at most.
        price: of one bit, in squared units of the weight, greater than 0.
        otherwise: gives what :func:`unpriced` would, where that is known.
        rounds: of the iteration, at most.
    """
    even = _evenly(points, math.sqrt(6 * price / math.log(2)), _SURPLUS * k)
    if even is not None:
        found = _settled(points, even, price, rounds)
        if len(found.centroids) <= k:
            return found
    return _settled(points, unpriced(points, k) if otherwise is None else otherwise(), price, rounds)


def _settled(points: Points, centroids: Floats, price: float, rounds: int) -> Priced:
    """What the iteration makes of these centroids."""
    if native.active():
        tables = points.low, points.high, points.mass, points.total, points.moment
        centroids, mass, bits = native.price_points(
            tables, points.centre, centroids, price, Codebook.centroid_bits, rounds
        )
    else:
        centroids, mass, bits = settled_in_python(points, centroids, price, rounds)
    kept, limits = cheapest(centroids, bits, price)
    gain = float((mass * centroids**2).sum()) / points.energy if points.energy else 1.0
    return Priced(centroids[kept], limits, float((mass * bits).sum() / points.total[-1]), gain)


def settled_in_python(points: Points, centroids: Floats, price: float, rounds: int) -> tuple[Floats, Floats, Floats]:
    """The twin of the native ``price_points``: centroids, their masses, and their bits."""
    everything = points.total[-1]
    bits, mass = np.zeros(len(centroids)), np.empty(0)
    for _ in range(rounds):
        _, limits = cheapest(centroids, bits, price)
        mass, moment = _between(points, limits)
        held = mass > 1e-9 * everything
        if not held.all():
            mass, moment = mass[held], moment[held]
        means = moment / mass + points.centre
        settled = len(means) == len(centroids) and bool(
            (np.abs(means - centroids) <= _SETTLED * np.abs(centroids).max()).all()
        )
        centroids, bits = means, Codebook.centroid_bits / mass - log_two(mass / everything)
        if settled:
            break
    return centroids, mass, bits


def log_two(values: Floats) -> Floats:
    """The binary logarithm of normal numbers by elementary operations only: the same on every machine."""
    bits = values.view(np.int64)
    exponent = (bits >> 52) - 1023
    part = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
    high = part > math.sqrt(2)
    part, exponent = np.where(high, part / 2, part), exponent + high
    ratio = (part - 1) / (part + 1)
    square, total = ratio * ratio, np.zeros(len(values))
    for term in range(_TERMS, -1, -1):
        total = total * square + 1.0 / (2 * term + 1)
    return exponent + 2 * ratio * total / math.log(2)


def _between(points: Points, limits: Floats) -> tuple[Floats, Floats]:
    """Mass and moment below the first threshold, between each and the next, and above the last."""
    total, moment = (np.empty(len(limits) + 2) for _ in range(2))
    total[0], total[-1], moment[0], moment[-1] = 0.0, points.total[-1], 0.0, points.moment[-1] - points.moment[0]
    total[1:-1], moment[1:-1] = points.up_to(limits)
    moment[1:-1] -= points.moment[0]
    return total[1:] - total[:-1], moment[1:] - moment[:-1]


def _evenly(points: Points, step: float, most: int) -> Floats | None:
    """Those of the evenly spaced centroids that are the nearest to some point, ascending; ``None``: more than
    ``most``."""
    if native.active():
        return native.evenly(points.middle, points.mean, step, most)
    return evenly_in_python(points.middle, points.mean, step, most)


def evenly_in_python(middle: Floats, mean: float, step: float, most: int) -> Floats | None:
    """The twin of the native ``evenly``."""
    nearest = np.rint((middle - mean) / step)
    first = np.append(True, nearest[1:] != nearest[:-1])
    found: Floats = mean + step * nearest[first]
    return found if len(found) <= most else None
