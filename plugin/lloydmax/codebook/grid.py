"""Evenly spaced codebooks: ``scale * (i - zero_point)``, stored as these two values."""

from __future__ import annotations

import torch
from torch import Tensor

from lloydmax.codebook.codebook import Codebook

_FEW = 15
"""Centroids from which an even codebook of granularity ``tensor`` is stored as scale and zero point."""


def grid(weight: Tensor, count: int, low: int) -> Codebook:
    """The evenly spaced codebook that a quantized tensor stands for.

    Args:
        weight: per tensor or per channel affine quantized, axis 0 or 1.
        count: number of levels.
        low: integer of the first level.
    """
    codes = (weight.int_repr().int() - low).to(torch.uint8)
    steps = torch.arange(count, dtype=torch.float32)
    if weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return Codebook((steps - (weight.q_zero_point() - low)) * weight.q_scale(), codes)
    scale = weight.q_per_channel_scales().float()[:, None]
    zero = weight.q_per_channel_zero_points().float()[:, None] - low
    return Codebook((steps - zero) * scale, codes, "channel", weight.q_per_channel_axis())


def even(codebook: Codebook) -> Tensor | None:
    """Scale and zero point ``(codebooks, 2)`` of a codebook that is exactly ``scale * (i - zero_point)``.

    ``None`` for any other codebook, and for one that is too small to gain by it.
    """
    return None if codebook.k < (_FEW if codebook.granularity == "tensor" else 3) else spacing(codebook)


def spacing(codebook: Codebook) -> Tensor | None:
    """Scale and zero point ``(codebooks, 2)`` of a codebook of any size, exactly ``scale * (i - zero_point)``."""
    if codebook.block > 1 or codebook.k < 2:
        return None
    centroids = codebook.centroids.detach().reshape(-1, codebook.k)
    if centroids.numel() - int(centroids.count_nonzero()) < len(centroids):  # some have no 0
        return None
    zero = (centroids == 0).int().argmax(1)
    neighbour = torch.where(zero + 1 < codebook.k, zero + 1, zero - 1)
    scale = centroids.gather(1, neighbour[:, None])[:, 0].float().abs()
    rows = torch.stack([scale, zero.float()], 1)
    return rows if torch.equal(spread(rows, codebook.k).to(centroids.dtype), centroids) else None


def spread(rows: Tensor, count: int) -> Tensor:
    """The centroids ``(codebooks, count)`` for scales and zero points ``(codebooks, 2)``, float32."""
    steps = torch.arange(count, dtype=torch.float32, device=rows.device)
    return (steps - rows[:, 1:]).mul_(rows[:, :1])
