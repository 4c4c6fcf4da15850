"""Codebooks where bits have a price: priced.c. The twins are in ``clustering/priced.py`` of the strategies, which tell
arguments and results; all need the core."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lloydmax.native.library import address, ready, size

Floats = NDArray[np.float64]


def price_points(
    points: tuple[Floats, Floats, Floats, Floats, Floats],
    centre: float,
    centroids: Floats,
    price: float,
    own: float,
    rounds: int,
) -> tuple[Floats, Floats, Floats]:
    """The centroids that the iteration leaves of ascending ones, their masses and their bits.

    Args:
        points: lower and upper end of each, and its mass; cumulative mass, and moment about the centre, one longer.
        centre: of the moments.
        centroids: to begin with; not changed.
        price, rounds: see ``solve`` there.
        own: bits of a centroid itself.
    """
    low, high, mass, total, moment = kept = [_of(table) for table in points]
    n, k = len(mass), len(centroids)
    if not len(low) == len(high) == n > 0 or not len(total) == len(moment) == n + 1 or k < 1:
        raise ValueError(f"{k} centroids of {n} points")
    found = np.empty((3, k))
    found[0] = centroids
    count: int = ready().lm_price(
        *map(address, kept), size(n), _number(centre), size(k), _number(price), _number(own), size(rounds),
        *map(address, found),
    )  # fmt: skip
    if not count:
        raise MemoryError(f"no memory for {k} centroids")
    left, masses, bits = found[:, :count]
    return left, masses, bits


def evenly(middle: Floats, mean: float, step: float, most: int) -> Floats | None:
    """Those of evenly spaced centroids that are the nearest to some of the ascending middles; ``None``: more than
    ``most``."""
    found = np.empty(min(most, len(middle)) + 1)
    most = len(found) - 1
    count: int = ready().lm_evenly(
        address(_of(middle)), size(len(middle)), _number(mean), _number(step), size(most), address(found)
    )
    return found[:count] if count <= most else None


def assign(values: Tensor, limits: Floats, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Fill flat codes of flat float32 values by ascending limits; how many have each, and their sums: float64."""
    if values.dtype != torch.float32 or codes.shape != values.shape:
        raise ValueError(f"{len(codes)} codes of {len(values)} values, {values.dtype}")
    counts, sums = torch.zeros((2, len(limits) + 1), dtype=torch.float64)
    made = ready().lm_assign(
        address(values), size(len(values)), address(_of(limits)), size(len(counts)), codes.element_size(),
        address(codes), address(counts), address(sums),
    )  # fmt: skip
    if not made:
        raise MemoryError(f"no memory for {len(counts)} centroids")
    return counts, sums


def _of(values: Floats) -> Floats:
    return np.ascontiguousarray(values, np.float64)


def _number(value: float) -> ctypes.c_double:
    return ctypes.c_double(value)
