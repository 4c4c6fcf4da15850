"""Blocks of weights as points: squared distances to centroids, and how many of them differ."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

_CHUNK = 1 << 22
"""Distances that are held at once."""
_SAMPLE = 1 << 16
"""Blocks of each codebook that are looked at first."""


class Blocks:
    """Blocks of weights as points, many codebooks at once, to be compared with centroids again and again.

    Args:
        points: ``(codebooks, n, block)``; float32 where they are compared with centroids.
        importance: of each squared difference, same shape; ``None``: all count alike.
    """

    def __init__(self, points: Tensor, importance: Tensor | None = None) -> None:
        self._points, self._importance = points, importance

    @cached_property
    def features(self) -> Tensor:
        """What every squared distance is linear in, ``(codebooks, n, f)``: ``[h x, h]`` with importance ``h``, else
        ``[x, 1]``."""
        if self._importance is None:
            return torch.cat([self._points, torch.ones_like(self._points[..., :1])], -1)
        return torch.cat([self._points * self._importance, self._importance], -1)

    def distances(self, centroids: Tensor) -> Tensor:
        """The squared distances from centroids ``(codebooks, k, block)``, less what no centroid changes
        (``sum h x**2``): ``(codebooks, n, k)``."""
        return self.features @ self._table(centroids)

    def nearest(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest of the centroids ``(codebooks, k, block)``: int64 codes ``(codebooks, n)``, and the
        :meth:`distances` from these."""
        table = self._table(centroids)
        count, n, _ = self.features.shape
        codes = torch.empty((count, n), dtype=torch.int64, device=table.device)
        least = torch.empty((count, n), dtype=self.features.dtype, device=table.device)
        step = max(1, _CHUNK // (count * table.shape[-1]))
        for start in range(0, n, step):
            part = slice(start, start + step)
            least[:, part], codes[:, part] = (self.features[:, part] @ table).min(-1)
        return codes, least

    def distinct(self, limit: int) -> Tensor:
        """How many blocks of every codebook differ, at most ``limit``: int64 ``(codebooks,)``.

        A projection to one number decides quickly for ordinary weights: as many blocks differ, at least.
        """
        blocks = self._points
        generator = torch.Generator().manual_seed(0)
        direction = torch.rand(blocks.shape[-1], generator=generator, dtype=torch.float64) + 0.5
        found = torch.zeros(len(blocks), dtype=torch.int64)
        sample = blocks[:, :: max(1, blocks.shape[1] // _SAMPLE)]
        for part in (sample, blocks) if sample.shape[1] < blocks.shape[1] else (blocks,):
            for row in torch.nonzero(found < limit)[:, 0].split(max(1, _CHUNK // part.shape[1])):
                line = (part[row.to(part.device)].double() @ direction.to(part.device)).sort(-1).values
                found[row] = (1 + (line[:, 1:] != line[:, :-1]).sum(-1)).clamp(max=limit).cpu()
        for row in torch.nonzero(found < limit)[:, 0].tolist():
            found[row] = min(limit, len(blocks[row].unique(dim=0)))
        return found

    def _table(self, centroids: Tensor) -> Tensor:
        """What the features are multiplied by."""
        square = centroids * centroids
        total = square if self._importance is not None else square.sum(-1, keepdim=True)
        return torch.cat([-2 * centroids, total], -1).mT
