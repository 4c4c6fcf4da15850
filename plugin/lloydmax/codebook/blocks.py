"""Blocks of weights as points: squared distances to centroids, and how many of them differ."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 22
"""Distances that are held at once."""
_SAMPLE = 1 << 16
"""Blocks of each codebook that are looked at first."""


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
    sample = blocks[:, :: max(1, blocks.shape[1] // _SAMPLE)]
    for part in (sample, blocks) if sample.shape[1] < blocks.shape[1] else (blocks,):
        for row in torch.nonzero(found < limit)[:, 0].split(max(1, _CHUNK // part.shape[1])):
            line = (part[row.to(part.device)].double() @ direction.to(part.device)).sort(-1).values
            found[row] = (1 + (line[:, 1:] != line[:, :-1]).sum(-1)).clamp(max=limit).cpu()
    for row in torch.nonzero(found < limit)[:, 0].tolist():
        found[row] = min(limit, len(blocks[row].unique(dim=0)))
    return found
