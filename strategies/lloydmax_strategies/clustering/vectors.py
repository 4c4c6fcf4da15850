"""k-means on blocks of weights: Lloyd (1957/1982) in several dimensions, many codebooks at once.

Seeds come from greedy k-means++ (Arthur & Vassilvitskii 2007) on a sample, the first rounds run on a larger sample, the
last ones on everything. A centroid without members moves to the point with the largest error.
"""

from __future__ import annotations

import math

import torch
from lloydmax import Codebook
from lloydmax.extend import Blocks, Layout, code_dtype
from torch import Tensor

_SEEDS = 1 << 13  # points of each codebook that seeds are drawn from, at least 8 k
_SAMPLE = 1 << 16  # points of each codebook in the first rounds, at least 64 k
_PATIENT = 2048  # above so many centroids, seeds are drawn at random
_AT_ONCE = 1 << 22  # values that are worked on at once
_ROUNDS, _LAST_ROUNDS = 100, 20
_SETTLED = 3e-5


def fit_blocks(weight: Tensor, importance: Tensor | None, layout: Layout) -> Codebook:
    """A codebook of vectors with a small (weighted) squared error.

    Args:
        weight: finite, any shape with at least one axis, on any device.
        importance: non-negative weight of each squared error, same shape, or ``None``. In a codebook where it is zero
            everywhere it is ignored.
        layout: of the weight; the number of centroids shrinks to that of distinct blocks, which are then kept exactly.
    """
    groups = list(layout.groups(weight))
    masses: list[Tensor | None] = [None] * len(groups)
    if importance is not None:
        masses = [*layout.groups(importance.detach().float())]
    found = [_fit(group, mass, layout.centroids) for group, mass in zip(groups, masses, strict=True)]
    most = max(centroids.shape[1] for centroids, _ in found)
    table = torch.cat([torch.cat([c, c[:, -1:].expand(-1, most - c.shape[1], -1)], 1) for c, _ in found])
    codes = torch.cat([c.to(code_dtype(most)).view(-1) for _, c in found])
    return Codebook.of(layout, table if layout.channels else table[0], codes.view(layout.code_shape))


def _fit(blocks: Tensor, importance: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Centroids ``(codebooks, k', block)`` in the dtype of the blocks, and codes ``(codebooks, n)``."""
    count, n, block = blocks.shape
    counted = Blocks(blocks).distinct(k + 1)
    k = min(k, int(counted.max()))
    centroids = torch.empty((count, k, block), dtype=blocks.dtype, device=blocks.device)
    codes = torch.empty((count, n), dtype=torch.int64, device=blocks.device)
    for row in torch.nonzero(counted <= k)[:, 0].tolist():
        own, codes[row] = blocks[row].unique(dim=0, return_inverse=True)
        centroids[row, : len(own)], centroids[row, len(own) :] = own, own[-1]
    many = torch.nonzero(counted > k)[:, 0].to(blocks.device)
    for rows in many.split(max(1, _AT_ONCE // (n * block))) if len(many) else ():
        points = blocks[rows].float()
        centre = points.mean(1, keepdim=True)
        mass = None
        if importance is not None:
            mass = importance[rows]
            mass = torch.where(mass.any(2).any(1)[:, None, None], mass, 1.0)
            mass = mass / mass.mean((1, 2), keepdim=True)
        points = points - centre
        means = _lloyd(points, mass, k)
        centroids[rows] = (means + centre).to(blocks.dtype)
        codes[rows] = Blocks(points, mass).nearest(centroids[rows].float() - centre)[0]
    return centroids, codes


def _lloyd(points: Tensor, mass: Tensor | None, k: int) -> Tensor:
    """Centroids ``(codebooks, k, block)`` of points that have more than k distinct ones."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(points.shape[1], generator=generator).to(points.device)

    def sample(size: int) -> tuple[Tensor, Tensor | None]:
        if size >= len(order):
            return points, mass
        return points[:, order[:size]], None if mass is None else mass[:, order[:size]]

    means = _seeds(*sample(max(_SEEDS, 8 * k)), k, generator)
    size = max(_SAMPLE, 64 * k)
    if size < len(order):
        means = _rounds(*sample(size), means, _ROUNDS)
    return _rounds(points, mass, means, _ROUNDS if size >= len(order) else _LAST_ROUNDS)


def _rounds(points: Tensor, mass: Tensor | None, means: Tensor, rounds: int) -> Tensor:
    """Lloyd's rounds: nearest centroid, mean of the members, until the error settles."""
    blocks = Blocks(points, mass)
    base = points.square() if mass is None else points.square() * mass
    base, before = base.sum(-1), torch.full((len(points),), math.inf, dtype=torch.float64, device=points.device)
    for _ in range(rounds):
        codes, least = blocks.nearest(means)
        means = _means(points, blocks.features, codes, (least + base).clamp_(min=0), means)
        error = (least + base).sum(1, dtype=torch.float64)
        if bool((error >= before * (1 - _SETTLED)).all()):
            break
        before = error
    return means


def _means(points: Tensor, features: Tensor, codes: Tensor, errors: Tensor, means: Tensor) -> Tensor:
    count, k, block = means.shape
    slots = (codes + k * torch.arange(count, device=codes.device)[:, None]).view(-1)
    sums = torch.zeros((count * k, features.shape[-1]), dtype=torch.float64, device=codes.device)
    flat = features.reshape(len(slots), -1)
    for start in range(0, len(slots), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        sums.index_add_(0, slots[part], flat[part].double())
    sums = sums.view(count, k, -1)
    moment, total = sums[..., :block], sums[..., block:]
    fresh = torch.where(total > 0, moment / total.clamp(min=torch.finfo(total.dtype).tiny), means.double()).float()
    empty = ~(total > 0).any(-1)
    if most := int(empty.sum(1).max()):
        worst = errors.topk(min(most, errors.shape[1]), dim=1).indices
        rank = (empty.cumsum(1) - 1)[empty]
        owner = empty.nonzero()[:, 0]
        fresh[empty] = points[owner, worst[owner, rank]]
    return fresh


def _seeds(points: Tensor, mass: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: each seed is the best of a few points drawn in proportion to their squared error."""
    count, n, block = points.shape
    book = torch.arange(count, device=points.device)
    if k > _PATIENT or n <= k:
        return points[:, torch.arange(k, device=points.device) % n].contiguous()
    tries = 2 + int(math.log(k))
    blocks = Blocks(points, mass)
    base = (points.square() if mass is None else points.square() * mass).sum(-1)
    chance = torch.ones_like(base) if mass is None else mass.sum(-1)
    errors = torch.full_like(base, math.inf)
    seeds = torch.empty((count, k, block), device=points.device)
    for number in range(k):
        steps = chance.cumsum(1, dtype=torch.float64)
        draw = torch.rand((count, tries), generator=generator, dtype=torch.float64).to(points.device) * steps[:, -1:]
        tried = torch.searchsorted(steps, draw).clamp_(max=n - 1)
        drawn = points[book[:, None], tried]
        against = blocks.distances(drawn).add_(base[..., None]).clamp_(min=0)
        against = torch.minimum(against, errors[..., None])
        best = against.sum(1).argmin(1)
        errors = against[book, :, best]
        seeds[:, number] = drawn[book, best]
        chance = errors
    return seeds
