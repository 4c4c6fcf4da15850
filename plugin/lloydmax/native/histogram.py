"""Passes over a large weight, and the fit on their histogram: histogram.c.

The twins are ``clustering/scan.py`` and ``clustering/histogram.py`` of the strategies, which tell arguments and
results. All need the core.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lloydmax.native.library import address, ready, size
from lloydmax.native.rows import DTYPES

Floats = NDArray[np.float64]
KEYS = 1 << 16


def float_keys(values: NDArray[np.float32], centre: np.float32, scale: np.float32, keys: NDArray[np.int16]) -> float:
    """Fill the keys of values; the largest distance from the centre."""
    _alike(values, keys)
    top: float = ready().lm_keys(
        address(_of(values, np.float32)), size(len(values)),
        ctypes.c_float(float(centre)), ctypes.c_float(float(scale)), address(_of(keys, np.int16)),
    )  # fmt: skip
    return top


def count_keys(
    keys: NDArray[np.uint16], values: NDArray[np.float32] | None, importance: NDArray[np.float32] | None
) -> tuple[Floats, Floats]:
    """Mass, and moment where there are values, of every key: ``(65536,)``."""
    _alike(keys, values, importance)
    mass, moment = np.empty((2, KEYS))
    made = ready().lm_count(
        address(_of(keys, np.uint16)), address(_of(values, np.float32)), address(_of(importance, np.float32)),
        size(len(keys)), address(mass), address(moment),
    )  # fmt: skip
    if not made:
        raise MemoryError("no memory for a histogram")
    return mass, moment


def look_up(
    keys: NDArray[np.uint16],
    values: NDArray[np.float32] | None,
    importance: NDArray[np.float32] | None,
    table: NDArray,
    mark: int,
    limits: NDArray[np.float32],
    mass: Floats,
    moment: Floats,
) -> NDArray:
    """Codes by a table of the keys; of those that have the code ``mark`` there, where values are given, by the limits
    between centroids, and their masses and moments are added."""
    _alike(keys, values, importance)
    if len(table) != KEYS or not len(mass) == len(moment) == len(limits) + 1:
        raise ValueError("a table has 65,536 entries, and there is a limit between any two centroids")
    codes = np.empty(len(keys), table.dtype)
    made = ready().lm_code(
        address(_of(keys, np.uint16)), address(_of(values, np.float32)), address(_of(importance, np.float32)),
        size(len(keys)), address(table), table.itemsize, size(mark), address(_of(limits, np.float32)), size(len(mass)),
        address(codes), address(_of(mass, np.float64)), address(_of(moment, np.float64)),
    )  # fmt: skip
    if not made:
        raise MemoryError(f"no memory for {len(mass)} centroids")
    return codes


def solve_points(
    low: Floats, high: Floats, mass: Floats, sums: Floats, k: int, finest: int, dtype: torch.dtype
) -> tuple[Tensor, float]:
    """k centroids of points, and their sum of squared errors; ``1 <= k`` and fewer than there are points."""
    _alike(low, high, mass, sums)
    if not 1 <= k < len(low):
        raise ValueError(f"{k} centroids of {len(low)} points")
    centroids = torch.empty(k, dtype=torch.float64)
    given = (np.ascontiguousarray(values, np.float64) for values in (low, high, mass, sums))
    kept = list(given)
    error: float = ready().lm_solve(
        *map(address, kept), size(len(low)), size(k), size(finest), DTYPES[dtype], address(centroids)
    )
    if error < 0:
        raise MemoryError(f"no memory to fit {k} centroids to {len(low)} points")
    return centroids.to(dtype), error


def bins(values: Tensor, low: float, factor: float, count: int) -> Tensor:
    """How many of flat float32 values lie in each bin, ``trunc((value - low) * factor)``, those beyond the ends in the
    outer ones: int64 ``(count,)``. The twin is in ``report/layers.py``."""
    if values.dtype != torch.float32 or count < 1:
        raise TypeError(f"{count} bins of {values.dtype}")
    counts = torch.zeros(count, dtype=torch.int64)
    ready().lm_bins(
        address(values), size(len(values)), ctypes.c_double(low), ctypes.c_double(factor), size(count), address(counts)
    )
    return counts


def _alike(first: NDArray, *others: NDArray | None) -> None:
    if any(other is not None and other.shape != first.shape for other in others):
        raise ValueError("values, keys and importances of one weight differ in number")


def _of(values: NDArray | None, dtype: type[np.generic]) -> NDArray | None:
    if values is not None and values.dtype != dtype:
        raise TypeError(f"{values.dtype} in place of {np.dtype(dtype)}")
    return values
