"""What a report tells of a weight and its codes: measure.c. All need the core."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from lloydmax.native.library import address, ready, size

CODES = (torch.uint8, torch.int16, torch.int32)
"""Dtypes of codes."""


def ends(values: Tensor) -> tuple[float, float]:
    """The smallest and the largest of flat float32 values, of which there are some; the twin is ``torch.aminmax``."""
    found = torch.empty(2)
    ready().lm_ends(address(_floats(values)), size(len(values)), address(found))
    low, high = found.tolist()
    return low, high


def bins(values: Tensor, low: float, factor: float, count: int) -> Tensor:
    """How many of flat float32 values lie in each bin, ``trunc((value - low) * factor)``, those beyond the ends in the
    outer ones: int64 ``(count,)``. The twin is in ``report/layers.py``."""
    if not 1 <= count < 1 << 31:
        raise ValueError(f"{count} bins")
    counts = torch.zeros(count, dtype=torch.int64)
    ready().lm_bins(
        address(_floats(values)), size(len(values)), ctypes.c_double(low), ctypes.c_double(factor), size(count),
        address(counts),
    )  # fmt: skip
    return counts


def members(codes: Tensor, k: int, rows: int = 1) -> Tensor:
    """How many codes of each of so many rows name each of its k centroids: int64 ``(rows, k)``.

    Args:
        codes: uint8, int16 or int32 ``0 .. k - 1``, contiguous; the rows one after the other.
        k: centroids of a row.
        rows: of equal length.
    """
    counts = torch.empty((rows, k), dtype=torch.int64)
    _named(codes, k, rows)
    ready().lm_members(
        address(codes), codes.element_size(), size(rows), size(codes.numel() // rows), size(k), address(counts)
    )
    return counts


def noise(values: Tensor, codes: Tensor, centroids: Tensor) -> tuple[float, float]:
    """The sums of the squares of float32 values, and of what is left of them without their centroids; up to the order
    of the sums what ``Codebook.snr`` finds by itself.

    Args:
        values: contiguous.
        codes: see :func:`members`; as many as values.
        centroids: ``(rows, k)``, float32.
    """
    rows, k = centroids.shape
    if codes.numel() != values.numel() or centroids.dtype != torch.float32:
        raise ValueError(f"{values.numel()} values, {codes.numel()} codes of {centroids.dtype}")
    _named(codes, k, rows)
    sums = torch.empty(2, dtype=torch.float64)
    ready().lm_noise(
        address(_floats(values)), address(codes), codes.element_size(), size(rows), size(codes.numel() // rows),
        address(centroids), size(k), address(sums),
    )  # fmt: skip
    signal, left = sums.tolist()
    return signal, left


def _floats(values: Tensor) -> Tensor:
    if values.dtype != torch.float32:
        raise TypeError(f"{values.dtype} in place of float32")
    return values


def _named(codes: Tensor, k: int, rows: int) -> None:
    """Refuse codes that name no centroid."""
    if codes.dtype not in CODES or codes.numel() % rows or not codes.numel():
        raise ValueError(f"{codes.numel()} codes of {codes.dtype} are not {rows} rows")
    if codes.dtype != torch.uint8 or k < 256:
        low, high = (int(end) for end in torch.aminmax(codes))
        if low < 0 or high >= k:
            raise ValueError(f"codes {low} .. {high} of {k} centroids")
