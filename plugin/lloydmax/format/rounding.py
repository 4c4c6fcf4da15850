"""The dtype in which a file keeps a tensor, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lloydmax.codebook import integers
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import even
from lloydmax.format import steps
from lloydmax.format.record import FLOATS

_LEAST = 5
"""Bits of floats, at least."""
_TOLERANCE = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-8}


def fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a float32 tensor may be rounded to float16 or bfloat16.

    Nothing overflows, and the rounding error is at most 2**-10 (bfloat16: 2**-8) of each value when all are
    positive (such as variances), else of the largest magnitude.
    """
    if tensor.numel() == 0:
        return True
    wide = tensor.detach()
    error = (wide.to(dtype).to(wide.dtype) - wide).abs()
    scale = wide if bool((wide > 0).all()) else wide.abs().amax()
    return bool(torch.isfinite(error).all()) and bool((error <= _TOLERANCE[dtype] * scale).all())


def narrows(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``dtype`` is a narrower one that the values fit."""
    return dtype.itemsize < tensor.dtype.itemsize and fits(tensor, dtype)


def target(value: Tensor | Codebook, storage: Mapping[str, str]) -> tuple[Tensor, torch.dtype]:
    """The tensor, or the centroids, and the dtype in which a file keeps them if they fit."""
    floats = FLOATS["float16" if storage["floats"] == "fixed" else storage["floats"]]
    if not isinstance(value, Codebook):
        return value, floats if value.dtype == torch.float32 else value.dtype
    if even(value) is not None:
        return value.centroids, value.centroids.dtype
    dtype = value.centroids.dtype
    if dtype == torch.bfloat16:
        return value.centroids, torch.float32
    return value.centroids, torch.float16 if torch.float16 in (dtype, floats) else torch.float32


def exact(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in ``dtype`` if that loses not a single bit, on any machine, else as it is: which NaN comes of a
    narrow one depends on the machine."""
    other = tensor.to(dtype)
    if dtype.itemsize >= tensor.dtype.itemsize:
        return other
    back = other.to(tensor.dtype)
    same = torch.equal(back.view(torch.int32), tensor.view(torch.int32)) and not bool(torch.isnan(other).any())
    return other if same else tensor


def rows_of(codebook: Codebook) -> Tensor:
    """The centroids of a codebook as ``(codebooks, values)``."""
    return codebook.centroids.detach().reshape(-1, codebook.layout.values)


def fineness(values: Iterable[Tensor | Codebook]) -> int:
    """How finely the floats of a model are rounded, see :func:`lloydmax.format.steps.rounded`.

    A bit of each costs as much as a bit of as many codes, and divides its error by four: what errors they may make, as
    a share of those of the weights, is as large as their number as a share of the weights'.
    """
    weights, floats, bits = 0, 1, 0.0
    for value in values:
        if isinstance(value, Codebook):
            weights += math.prod(value.shape)
            bits += math.prod(value.shape) * _precision(value)
        elif isinstance(value, nn.Parameter) and value.numel() <= steps.MOST:
            floats += value.numel()
    return max(_LEAST, math.ceil(bits / weights + math.log2(weights / floats) / 2)) if weights else steps.FINE


def _precision(book: Codebook) -> float:
    """Bits that weights have, nearly: binary logarithm of their magnitude over their error, by what lies between
    centroids, plus a quarter; of blocks the entropy."""
    if book.block > 1 or book.k == 1:
        return book.entropy
    table, order = book.centroids.detach().double().reshape(-1, book.k).sort(1)
    members = book.member_counts().reshape(-1, book.k).gather(1, order).double()
    gaps = table.diff(dim=1)
    widths = (torch.cat([gaps[:, :1], gaps], 1) + torch.cat([gaps, gaps[:, -1:]], 1)) / 2
    noise, signal = float((members * widths.square()).sum()) / 12, float((members * table.square()).sum())
    return max(0.0, math.log2(signal / noise) / 2 + 0.25) if noise and signal else 0.0


def in_steps(value: Tensor | Codebook, storage: Mapping[str, str], fine: int = steps.FINE) -> Tensor | None:
    """The tensor, or the centroids, rounded to steps where ``storage`` wants them so: parameters, not buffers, in which
    models look things up. ``None``: they are not for steps."""
    if storage["floats"] != "fixed":
        return None
    if isinstance(value, Codebook):
        free = value.centroids.dtype == torch.float32 and even(value) is None
        columns = value.k if value.layout.block == 1 else 0
        return steps.rounded(value.centroids, columns) if free else None
    return steps.rounded(value, fine=fine) if isinstance(value, nn.Parameter) and value.dtype == torch.float32 else None


def takes_int8(codebook: Codebook, storage: Mapping[str, str]) -> bool:
    """Whether the file is to hold these centroids as integers: ``storage`` says so, and it saves bytes."""
    tensor, dtype = target(codebook, storage)
    wanted = storage["codebooks"] == "int8" and tensor.dtype == torch.float32 and even(codebook) is None
    return wanted and integers.pays(codebook.layout, dtype.itemsize)
