"""Products of inputs with weights of codes: run.c. The twin decodes the weight."""

from __future__ import annotations

import ctypes
import functools
import os
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from lloydmax.native.library import active, address, ready, size

_SHARED = 1 << 20
"""Weights from which threads share the rows."""
_FEW = 4
"""Inputs up to which integers are faster."""
_PEAK = 32.0
"""Over the root mean square of the inputs: with a larger one the others have too few bits to be held to 1e-3."""


@torch.library.custom_op("lloydmax::linear_codes", mutates_args=())
def linear_codes(input: Tensor, codes: Tensor, tables: Tensor, shared: int, fast: bool) -> Tensor:
    """``input @ weight.T``, where row r of the weight is ``tables[r // shared][codes[r]]``.

    Args:
        input: ``(batch, in)``, float32, on the CPU.
        codes: ``(out, in)``, uint8, each below k.
        tables: ``(n, k)``, float32, k at most 256.
        shared: rows that have one table.
        fast: in integers of 16 bits where the core and the numbers allow that, see :data:`_PEAK`.

    Returns:
        ``(batch, out)``, float32.

    Raises:
        ValueError: shapes or dtypes do not go together.
    """
    (batch, width), (rows, columns), (count, k) = input.shape, codes.shape, tables.shape
    if width != columns or shared < 1 or count * shared < rows or not 1 <= k <= 256:
        raise ValueError(f"inputs {tuple(input.shape)}, codes {tuple(codes.shape)} and tables {tuple(tables.shape)}")
    if (input.dtype, codes.dtype, tables.dtype) != (torch.float32, torch.uint8, torch.float32):
        raise ValueError(f"{input.dtype}, {codes.dtype}, {tables.dtype} in place of float32, uint8, float32")
    if not active():
        owners = torch.arange(rows) // shared
        return F.linear(input, tables[owners].gather(1, codes.long()))
    fast = fast and batch <= _FEW and k <= 16
    x, codes, tables, output = input.contiguous(), codes.contiguous(), tables.contiguous(), input.new_empty(batch, rows)

    def product(begin: int, end: int) -> None:
        library = ready()
        room = torch.empty(width if fast else 0, dtype=torch.int16)
        some = size(begin), size(end)
        slow = [] if fast else [slice(0, batch)]
        for b in range(batch if fast else 0):
            if not library.lm_linear_int16(
                address(x[b]), address(codes), size(width), address(tables), size(k), size(shared), *some,
                ctypes.c_float(_PEAK), address(room), address(output[b]),
            ):  # fmt: skip
                slow.append(slice(b, b + 1))
        for part in slow:
            library.lm_linear(
                address(x[part]), size(len(x[part])), address(codes), size(width), size(rows), address(tables),
                size(k), size(shared), *some, address(output[part]),
            )  # fmt: skip

    threads = min(torch.get_num_threads(), rows) if codes.numel() >= _SHARED else 1
    if threads == 1:
        product(0, rows)
    else:
        step = -(-rows // threads)
        list(_pool(threads).map(lambda begin: product(begin, min(rows, begin + step)), range(0, rows, step)))
    return output


@linear_codes.register_fake
def _(input: Tensor, codes: Tensor, tables: Tensor, shared: int, fast: bool) -> Tensor:
    return input.new_empty(input.shape[0], codes.shape[0])


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
