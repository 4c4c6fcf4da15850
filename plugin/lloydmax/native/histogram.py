"""Passes over a large weight, and the fit on their histogram: scan.c and histogram.c.

The twins are ``clustering/scan.py`` and ``clustering/histogram.py`` of the strategies, which tell arguments and
results. All need the core.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lloydmax.native.library import address, ready, size
from lloydmax.native.rows import DTYPES

Floats = NDArray[np.float64]
KEYS = 1 << 16


def count_keys(keys: NDArray[np.uint16], importance: NDArray[np.float32] | None) -> Floats:
    """Mass of every key: ``(65536,)``."""
    _alike(keys, importance)
    mass = np.empty(KEYS)
    given = address(_of(keys, np.uint16)), address(_of(importance, np.float32))
    if not ready().lm_count(*given, size(len(keys)), address(mass)):
        raise MemoryError("no memory for a histogram")
    return mass


def scan(
    values: NDArray[np.float32], importance: NDArray[np.float32] | None, multiples: Floats, keys: NDArray[np.uint16]
) -> tuple[NDArray[np.int64], Floats, Floats, Floats, Floats]:
    """Fill the keys of values; those that there are, ascending, lower and upper end of their values, mass and moment.
    ``multiples`` of the mean distance are what the scale of the keys is chosen from."""
    _alike(values, keys, importance)
    held, tables = np.empty(KEYS, np.int64), np.empty((4, KEYS))
    count: int = ready().lm_scan(
        address(_of(values, np.float32)), address(_of(importance, np.float32)), size(len(values)),
        address(_of(multiples, np.float64)), len(multiples), address(_of(keys, np.uint16)), address(held),
        *map(address, tables),
    )  # fmt: skip
    if not count:
        raise MemoryError("no memory for a histogram")
    low, high, mass, moment = tables[:, :count]
    return held[:count], low, high, mass, moment


def encode(
    keys: NDArray[np.uint16],
    values: NDArray[np.float32] | None,
    importance: NDArray[np.float32] | None,
    held: NDArray[np.int64],
    tables: tuple[Floats, Floats, Floats, Floats],
    centroids: Tensor,
    code_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Centroids that are the means of their members, nearly, and flat codes, of centroids that are close to them.

    Args:
        keys: ``(n,)``.
        values: ``(n,)``; ``None``: every key is a value.
        importance: ``(n,)``, or ``None``.
        held: all keys that there are, by ascending values.
        tables: lower and upper end of their values, mass and moment.
        centroids: ``(k,)``, ascending.
        code_dtype: uint8, int16 or int32; it holds k.
    """
    _alike(keys, values, importance)
    _alike(held, *tables)
    exact, codes = centroids.to(torch.float64, copy=True), torch.empty(len(keys), dtype=code_dtype)
    made = ready().lm_encode(
        address(_of(keys, np.uint16)), address(_of(values, np.float32)), address(_of(importance, np.float32)),
        size(len(keys)), address(_of(held, np.int64)), *(address(_of(table, np.float64)) for table in tables),
        size(len(held)), size(len(exact)), DTYPES[centroids.dtype], codes.element_size(), address(exact),
        address(codes),
    )  # fmt: skip
    if not made:
        raise MemoryError(f"no memory for {len(exact)} centroids")
    return exact.to(centroids.dtype), codes


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


def _alike(first: NDArray, *others: NDArray | None) -> None:
    if any(other is not None and other.shape != first.shape for other in others):
        raise ValueError("values, keys and importances of one weight differ in number")


def _of(values: NDArray | None, dtype: type[np.generic]) -> NDArray | None:
    if values is not None and values.dtype != dtype:
        raise TypeError(f"{values.dtype} in place of {np.dtype(dtype)}")
    return values
