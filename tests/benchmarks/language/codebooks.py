"""Codebooks for each output channel, as published: SqueezeLLM and any4. Our own implementations."""

from __future__ import annotations

import torch
from torch import Tensor

from language.uniform import Rounded, grids

_ROUNDS = 20
_SPARSE = 0.0045
"""Share of weights that SqueezeLLM keeps apart."""
_SPARSE_BITS = 16 + 16
"""Of each: value, and column."""


def means(rows: Tensor, weights: Tensor, count: int) -> Tensor:
    """Each value's centroid, by weighted k-means in each row: both ``(rows, columns)``."""
    order = rows.argsort(1)
    values, heavy = rows.gather(1, order).double(), weights.gather(1, order).double().clamp(min=1e-12)
    shares = heavy.cumsum(1) / heavy.sum(1, keepdim=True)
    quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    at = torch.searchsorted(shares, quantiles.expand(len(rows), -1).contiguous()).clamp(max=rows.shape[1] - 1)
    centroids = values.gather(1, at)
    for _ in range(_ROUNDS):
        edges = (centroids[:, 1:] + centroids[:, :-1]) / 2
        codes = torch.searchsorted(edges.contiguous(), values)
        mass = torch.zeros_like(centroids).scatter_add_(1, codes, heavy)
        sums = torch.zeros_like(centroids).scatter_add_(1, codes, heavy * values)
        centroids = torch.where(mass > 0, sums / mass.clamp(min=1e-30), centroids).sort(1).values
    edges = ((centroids[:, 1:] + centroids[:, :-1]) / 2).contiguous()
    return centroids.half().double().gather(1, torch.searchsorted(edges, rows.double())).float()


def squeezellm(rows: Tensor, fisher: Tensor, bits: int, sparse: bool) -> Rounded:
    """Kim et al. (2024): k-means for each output channel, weighted by the squared gradients of the loss; with
    ``sparse``, 0.45 % of the weights apart, the largest and those with the largest gradients."""
    kept = torch.zeros_like(rows, dtype=torch.bool)
    if sparse:
        few = max(1, int(_SPARSE / 2 * rows.numel()))
        for measure in (rows.abs(), fisher * rows.square()):
            kept.view(-1)[measure.flatten().topk(few).indices] = True
    found = means(torch.where(kept, 0.0, rows), torch.where(kept, 0.0, fisher), 2**bits)
    taken = bits + 16 * 2**bits / rows.shape[1] + float(kept.float().mean()) * _SPARSE_BITS
    return torch.where(kept, rows, found), taken


def any4(rows: Tensor, moments: Tensor, bits: int, group: int) -> Rounded:
    """Elhoushi & Johnson (2025): a codebook of ``2 ** bits`` values for each output channel, on weights that each group
    has brought to the same range, weighted by how large inputs are."""
    scale, zero = grids(rows, bits, group)
    large = moments.diagonal().float().sqrt()
    found = means(rows / scale + zero, (large * scale).square(), 2**bits)
    return (found - zero) * scale, bits + 32 / group + 16 * 2**bits / rows.shape[1]
