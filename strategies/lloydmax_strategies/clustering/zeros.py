"""Codebooks of pruned weights: a centroid that is exactly 0, and the others settled beside it."""

from __future__ import annotations

from dataclasses import replace

import torch
from lloydmax import Codebook
from torch import Tensor

_ROUNDS, _PRICED, _SETTLED = 20, 4, 1e-3
"""Rounds, at most, without and with a price; and by what share of the largest one centroids still move."""
_CHUNK = 1 << 22
"""Weights that are summed at once."""


def with_zeros(codebook: Codebook, weight: Tensor, importance: Tensor | None = None) -> Codebook:
    """The centroid nearest to 0 becomes 0 in every codebook that has zeros, and these its members; then the others
    settle: every weight takes the nearest centroid, where bits have a price the cheapest, and centroids but 0 are the
    (weighted) means of their members again.

    Args:
        codebook: of the weight; its centroids are the means of their members.
        weight: without zeros the codebook is given back.
        importance: of each squared error, same shape.
    """
    weight = weight.detach()
    if not bool(codebook.layout.zeros(weight).any()):
        return codebook
    book = _pinned(codebook, weight)
    for _ in range(_PRICED if book.price else _ROUNDS):
        before, book = book.centroids, _settled(book.reassigned(weight), weight, importance)
        if bool(((book.centroids - before).abs() <= _SETTLED * before.abs().amax()).all()):
            break
    book = book.reassigned(weight)
    used = book.member_counts() > 0
    if book.price and not bool(used.all()):
        codes = (used.cumsum(0) - 1)[book.codes.long()].to(book.codes.dtype)
        book = replace(book, centroids=book.centroids[used], codes=codes)
    return book


def _pinned(codebook: Codebook, weight: Tensor) -> Codebook:
    layout = codebook.layout
    table = codebook.centroids.clone()
    rows = table.view(-1, codebook.k, codebook.block)
    members = codebook.layout.slots(codebook.codes).long() // codebook.k
    zeros = torch.bincount(members, layout.zeros(weight).reshape(-1).double(), minlength=len(rows))
    holds = torch.nonzero(zeros)[:, 0]
    rows[holds, rows[holds].float().square().sum(-1).argmin(1)] = 0
    return replace(codebook, centroids=table, zeros=True)


def _settled(book: Codebook, weight: Tensor, importance: Tensor | None) -> Codebook:
    """With the means of the members; without members, and where 0 stays, the centroids as they are."""
    total, moment = _sums(book, weight, importance)
    if importance is not None:  # members that do not matter count alike
        alone = (total == 0).all(1)
        if bool(alone.any()):
            plain = _sums(book, weight, None)
            total, moment = (torch.where(alone[:, None], a, b) for a, b in zip(plain, (total, moment), strict=True))
    kept = book.centroids.reshape(-1, book.block).double()
    fixed = (total <= 0) | book.still().reshape(-1, 1)
    means = torch.where(fixed, kept, moment / total.clamp(min=torch.finfo(torch.float64).tiny))
    return replace(book, centroids=means.to(book.centroids.dtype).view_as(book.centroids))


def _sums(book: Codebook, weight: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of the importance, and of importance x weight, over the members of every centroid: float64 ``(n, block)``."""
    slots, block = book.layout.slots(book.codes), book.block
    values, mass = (_in_order(book, t) for t in (weight, importance))
    assert values is not None
    sums = torch.zeros(2, book.centroids.numel() // block, block, dtype=torch.float64, device=weight.device)
    for start in range(0, len(slots), max(1, _CHUNK // block)):
        part = slice(start, start + max(1, _CHUNK // block))
        weighed = torch.ones_like(values[part]).double() if mass is None else mass[part].double()
        for total, each in zip(sums, (weighed, weighed * values[part]), strict=True):
            for axis in range(block):
                total[:, axis] += torch.bincount(slots[part], each[:, axis], minlength=len(total))
    return sums[0], sums[1]


def _in_order(book: Codebook, tensor: Tensor | None) -> Tensor | None:
    """As rows of blocks in the order of the codes."""
    if tensor is None or book.block == 1:
        return None if tensor is None else tensor.detach().reshape(-1, 1)
    return book.layout.blocks(tensor.detach()).reshape(-1, book.block)
