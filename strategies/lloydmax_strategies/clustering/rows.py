"""Many codebooks at once, from sorted values: one per output channel, per group of channels, or for a small tensor."""

from __future__ import annotations

import numpy as np
import torch
from lloydmax.extend import code_dtype, native
from numpy.typing import NDArray
from torch import Tensor

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

_BATCH = 1 << 18  # weights that are worked on at once
_COMPARE = 32  # up to so many centroids, codes are found by comparing with every threshold
_SETTLE = 8  # rounds of Lloyd in the dtype of the weight, at most


def fit_rows(rows: Tensor, importance: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """A codebook of at most k centroids for each row: the optimum of a dynamic programme on the sorted values.

    Args:
        rows: ``(n, m)``, floating point, on the CPU.
        importance: ``(n, m)``, not negative, or ``None``. In a row where it is zero everywhere it is ignored.
        k: number of centroids.

    Returns:
        Centroids ``(n, k')`` in the dtype of ``rows``, ascending, ``k'`` the most that a row needs, the last
        centroid of a shorter row repeated; and codes ``(n, m)``, the nearest centroid of every value.
    """
    k = min(k, rows.shape[1])
    if native.active():
        centroids, codes = native.fit_rows(rows, importance, k, code_dtype(k))
        return centroids, codes.to(code_dtype(centroids.shape[1]))
    return fit_in_python(rows, importance, k)


def fit_in_python(rows: Tensor, importance: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The twin of the native :func:`fit_rows`: the same, bit for bit; k is at most m."""
    n, m = rows.shape
    centroids = torch.empty((n, k), dtype=rows.dtype)
    codes = torch.empty((n, m), dtype=code_dtype(k))
    step, used = max(1, _BATCH // m), 1
    for start in range(0, n, step):
        part = slice(start, start + step)
        mass = None if importance is None else importance[part].double().numpy()
        values = rows[part].float()
        found, count = _centroids(values.numpy() + np.float32(0), mass, k, rows.dtype, n > 1)
        centroids[part] = found
        codes[part] = nearest(values, thresholds(found))
        used = max(used, count)
    return centroids[:, :used].contiguous(), codes.to(code_dtype(used))


def thresholds(centroids: Tensor) -> Tensor:
    """Where the nearest centroid changes: a float32 value above ``t[j]`` is nearer to centroid ``j + 1`` than to j.

    Args:
        centroids: ``(..., k)``, ascending.

    Returns:
        float32 ``(..., k - 1)``: the midpoint rounded down, infinite between equal centroids.
    """
    exact = centroids.double()
    middle = (exact[..., 1:] + exact[..., :-1]) / 2
    below = middle.float()
    below = torch.where(below.double() > middle, torch.nextafter(below, torch.tensor(-torch.inf)), below)
    return torch.where(exact[..., 1:] > exact[..., :-1], below, torch.inf)


def nearest(values: Tensor, limits: Tensor) -> Tensor:
    """Codes of float32 values ``(n, m)`` for thresholds ``(n, k - 1)``: how many thresholds lie below each value."""
    k = limits.shape[1] + 1
    if k > _COMPARE:
        found = torch.searchsorted(limits, values, out_int32=True)
        return torch.minimum(found, torch.tensor(k - 1, dtype=torch.int32)).to(code_dtype(k))
    codes, table, above = np.zeros(values.shape, np.uint8), values.numpy(), np.empty(values.shape, bool)
    for limit in limits.T:
        np.greater(table, limit[:, None].numpy(), out=above)
        codes += above.view(np.uint8)
    return torch.from_numpy(codes)


def _centroids(
    values: NDArray[np.float32], mass: Floats | None, k: int, dtype: torch.dtype, brief: bool
) -> tuple[Tensor, int]:
    """Centroids ``(n, k)`` in ``dtype``, padded, and the most that a row needs."""
    if mass is None:
        ordered, weight = np.sort(values, axis=1), None
    else:
        order = np.argsort(values, axis=1, kind="stable")
        ordered = np.take_along_axis(values, order, axis=1)
        weight = np.take_along_axis(np.where(mass.any(axis=1, keepdims=True), mass, 1.0), order, axis=1)
    counted = np.ones(ordered.shape, bool) if weight is None else weight > 0
    last = np.where(counted, ordered, -np.inf)
    np.maximum.accumulate(last, axis=1, out=last)
    fresh = counted.copy()
    fresh[:, 1:] &= ordered[:, 1:] != last[:, :-1]
    distinct = fresh.sum(axis=1)

    centroids = np.empty((len(values), k))
    for row in np.flatnonzero(distinct <= k):
        own = ordered[row, fresh[row]]
        centroids[row, : len(own)], centroids[row, len(own) :] = own, own[-1]
    many = np.flatnonzero(distinct > k)
    if len(many):
        own_weight = None if weight is None else weight[many]
        centroids[many] = _means(ordered[many], own_weight, k, dtype, brief)
    for row in many[(centroids[many, 1:] == centroids[many, :-1]).any(axis=1)]:
        centroids[row] = _distinct(ordered[row], None if weight is None else weight[row], k, dtype)
    return torch.from_numpy(centroids).to(dtype), int(min(k, distinct.max()))


def _means(
    ordered: NDArray[np.float32], weight: Floats | None, k: int, dtype: torch.dtype, brief: bool = False
) -> Floats:
    """Centroids of rows that have more than k distinct values."""
    n, m = ordered.shape
    centre = ordered[:, m // 2, None].astype(np.float64)
    values = ordered - centre
    if weight is None:
        mass, weighted = np.broadcast_to(np.arange(m + 1.0), (n, m + 1)).copy(), values
    else:
        mass, weighted = prefix(weight), values * weight
    moment, wanted = outward(weighted, m // 2), desire(values, weight)
    measure, error = panter_dite(wanted, k)
    scarce = error < SCARCE * total_of(weighted * values)
    borders = np.empty((n, k + 1), np.int64)
    for part in (np.flatnonzero(~scarce), np.flatnonzero(scarce)):
        if len(part):
            square = outward(weighted[part] * values[part], m // 2) if scarce[part[0]] else None
            every = slice(None) if len(part) == n else part
            borders[part] = partition(mass[every], moment[every], measure[every], k, square, brief=brief)
    table = torch.from_numpy(ordered)
    centroids = np.zeros((n, k))
    for _ in range(_SETTLE):
        part = np.diff(np.take_along_axis(mass, borders, axis=1), axis=1)
        total = np.diff(np.take_along_axis(moment, borders, axis=1), axis=1)
        means = np.where(part > 0, total / np.where(part > 0, part, 1) + centre, centroids)
        means = torch.from_numpy(means).to(dtype).double().numpy()
        if np.array_equal(means, centroids):
            break
        centroids = means
        limits = thresholds(torch.from_numpy(centroids).to(dtype))
        borders[:, 1:-1] = torch.searchsorted(table, limits, right=True).numpy()
    return np.sort(centroids, axis=1)


def _distinct(values: NDArray[np.float32], weight: Floats | None, k: int, dtype: torch.dtype) -> Floats:
    """Centroids ``(k,)`` of one row, no two of them equal but for the last: its distinct values and how often they
    occur; between equal values there are no borders then."""
    held = values if weight is None else values[weight > 0]
    own, owner = np.unique(held, return_inverse=True)
    counts = np.bincount(owner, None if weight is None else weight[weight > 0]).astype(np.float64)
    found = np.unique(own if len(own) <= k else _means(own[None], counts[None], k, dtype))
    return np.concatenate([found, np.full(k - len(found), found[-1])])
