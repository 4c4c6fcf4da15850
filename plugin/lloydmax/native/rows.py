"""Many codebooks at once, from sorted values: rows.c."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from lloydmax.native.library import address, ready, size

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
"""The number by which the core knows a dtype."""
_SHARED = 1 << 16
"""Weights from which threads share the rows."""


def fit_rows(rows: Tensor, importance: Tensor | None, k: int, code_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A codebook of at most k centroids for each row; its twin is ``clustering/rows.py`` of the strategies, which tells
    arguments and results. Needs the core.

    Args:
        rows: ``(n, m)``, float32, float16 or bfloat16, on the CPU, not empty.
        importance: ``(n, m)``, not negative, or ``None``.
        k: number of centroids, at most m.
        code_dtype: uint8, int16 or int32, of the codes; it holds k.
    """
    n, m = rows.shape
    values = rows.detach().float().contiguous()
    mass = None if importance is None else importance.detach().double().contiguous()
    if mass is not None and mass.shape != values.shape:
        raise ValueError(f"importance has shape {tuple(mass.shape)}, the rows {tuple(values.shape)}")
    centroids, codes = torch.empty((n, k)), torch.empty((n, m), dtype=code_dtype)
    library = ready()

    def work(part: slice) -> int:
        found: int = library.lm_fit_rows(
            address(values[part]), address(None if mass is None else mass[part]), size(len(values[part])), size(m),
            size(k), DTYPES[rows.dtype], int(n > 1), address(centroids[part]), address(codes[part]),
            codes.element_size(),
        )  # fmt: skip
        if not found:
            raise MemoryError(f"no memory to fit rows of {m} weights")
        return found

    threads = min(torch.get_num_threads(), n) if n * m >= _SHARED else 1
    if threads > 1:
        step = -(-n // (4 * threads))
        with ThreadPoolExecutor(threads) as pool:
            used = max(pool.map(work, (slice(start, start + step) for start in range(0, n, step))))
    else:
        used = work(slice(0, n))
    return centroids[:, :used].contiguous().to(rows.dtype), codes
