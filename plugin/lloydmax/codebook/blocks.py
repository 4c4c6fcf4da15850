"""Vector codebooks: the weights of an output channel cut into blocks, each with one code.

A block is ``d`` consecutive weights of one output channel, row-major over the remaining axes: 9 is a 3 x 3 kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_CHUNK = 1 << 22


def per_channel(shape: Sequence[int], axis: int) -> int:
    """Weights of one output channel."""
    return math.prod(shape) // shape[axis] if shape else 1


def misfit(shape: Sequence[int], axis: int, block: int) -> str | None:
    """Why blocks of this length do not divide the channels of a weight; ``None`` where they do."""
    size = per_channel(shape, axis)
    if size % block == 0:
        return None
    divisors = [d for d in range(1, min(size, 64) + 1) if size % d == 0]
    return (
        f"its shape {tuple(shape)} has {size} weights per output channel, which blocks of {block} do not divide; "
        f"lengths that do: {', '.join(map(str, divisors))}"
    )


def code_shape(shape: Sequence[int], axis: int, block: int) -> tuple[int, ...]:
    """Shape of the codes: that of the weight, or ``(channels, blocks per channel)`` for blocks of several weights."""
    return tuple(shape) if block == 1 else (shape[axis], per_channel(shape, axis) // block)


def to_blocks(weight: Tensor, axis: int, block: int) -> Tensor:
    """``(channels, blocks per channel, block)`` of a weight."""
    return weight.movedim(axis, 0).reshape(weight.shape[axis], -1, block)


def from_blocks(blocks: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """The reverse of :func:`to_blocks`, contiguous."""
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return blocks.reshape(moved).movedim(0, axis).contiguous()


def grouped(blocks: Tensor, channels: int | None) -> Iterator[Tensor]:
    """The blocks of every codebook, ``(codebooks, n, block)``: the full groups of channels, then a smaller last one.

    Args:
        blocks: ``(channels, blocks per channel, block)``.
        channels: of one codebook; ``None``: all.
    """
    channels = channels or len(blocks)
    full = len(blocks) // channels * channels
    for part in (blocks[:full], blocks[full:]):
        if len(part):
            yield part.reshape(-1, min(channels, len(part)) * blocks.shape[1], blocks.shape[2])


def features(points: Tensor, importance: Tensor | None = None) -> Tensor:
    """What every squared distance is linear in: ``[h x, h]``, or ``[x, 1]`` without importance.

    Args:
        points: ``(..., n, d)``, float32.
        importance: ``h``, same shape.
    """
    if importance is None:
        return torch.cat([points, torch.ones_like(points[..., :1])], -1)
    return torch.cat([points * importance, importance], -1)


def nearest(described: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of every point.

    Args:
        described: :func:`features` of the points, ``(codebooks, n, f)``.
        centroids: ``(codebooks, k, d)``.

    Returns:
        int64 codes ``(codebooks, n)``, and the squared distances less what no centroid changes (``sum h x**2``).
    """
    square = centroids * centroids
    weighted = described.shape[-1] == 2 * centroids.shape[-1]
    table = torch.cat([-2 * centroids, square if weighted else square.sum(-1, keepdim=True)], -1).mT
    count, n, _ = described.shape
    codes = torch.empty((count, n), dtype=torch.int64, device=described.device)
    least = torch.empty((count, n), dtype=described.dtype, device=described.device)
    step = max(1, _CHUNK // (count * table.shape[-1]))
    for start in range(0, n, step):
        part = slice(start, start + step)
        least[:, part], codes[:, part] = (described[:, part] @ table).min(-1)
    return codes, least


def distinct(blocks: Tensor, limit: int) -> Tensor:
    """Distinct blocks of every codebook, at most ``limit``: int64 ``(codebooks,)``.

    A projection to one number decides quickly for ordinary weights: as many blocks differ, at least.

    Args:
        blocks: ``(codebooks, n, block)``.
        limit: where to stop counting.
    """
    direction = torch.rand(blocks.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    found = torch.zeros(len(blocks), dtype=torch.int64)
    sample = blocks[:, :: max(1, blocks.shape[1] // (1 << 16))]
    for part in (sample, blocks) if sample.shape[1] < blocks.shape[1] else (blocks,):
        for row in torch.nonzero(found < limit)[:, 0].split(max(1, _CHUNK // part.shape[1])):
            line = (part[row.to(part.device)].double() @ direction.to(part.device)).sort(-1).values
            found[row] = (1 + (line[:, 1:] != line[:, :-1]).sum(-1)).clamp(max=limit).cpu()
    for row in torch.nonzero(found < limit)[:, 0].tolist():
        found[row] = min(limit, len(blocks[row].unique(dim=0)))
    return found
