"""Soft weights: while it trains, the network computes with a mixture of the two centroids between which each latent
weight lies, and the mixtures harden in the course of the run.

The differentiable k-means of Cho et al. (2022, DKM), with the attention of a weight limited to the two centroids next
to it, and a temperature that falls. In the last steps all weights are hard, and latent ones learn by the
straight-through estimator.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from lloydmax import Codebook
from lloydmax.extend import CodebookWeight
from torch import Tensor

from lloydmax_strategies.training.latent import StraightThrough

_SOFT = 0.85
"""Share of the steps in which weights are soft."""
_WARM, _COLD = 0.5, 0.01
"""The first and the last temperature, in units of the squared distance of the two centroids."""
_LEAST_GAP = 1e-12


class Annealed(StraightThrough):
    """A mixture of two centroids, ``lower`` and ``upper`` (codes), by a softmax of -(squared distance + price x bits) /
    temperature; the upper one's share is the larger where the latent weight is above ``limit``. Codebooks of single
    weights only."""

    option: ClassVar[str] = "anneal"
    vectors: ClassVar[bool] = False

    def __init__(self, weight: Tensor, holder: CodebookWeight, centroids: Tensor) -> None:
        super().__init__(weight, holder, centroids)
        self.progress = 0.0
        codebook = holder.holding(centroids)
        self.lower, self.upper = neighbours(codebook, self.weight)
        self.limit = self._limits(codebook)

    @property
    def state(self) -> list[Tensor]:
        """What changes beside the latent weight: codes, numbers of members, and what the mixtures are of."""
        return [*super().state, self.lower, self.upper, self.limit]

    @property
    def hardness(self) -> float:
        """Rises from 0 to 1, where the weights are hard."""
        return min(1.0, self.progress / _SOFT)

    def begin_step(self, progress: float) -> None:
        """Harden."""
        self.progress = progress

    def forward(self, decoded: Tensor) -> Tensor:
        """The soft weight; the decoded one as it is in the last steps, and where no gradient is wanted."""
        if self.hardness == 1 or not torch.is_grad_enabled():
            return super().forward(decoded)
        holder, centroids = self.held
        codebook, table = holder.holding(centroids), holder.averaging(centroids)
        low, high = codebook.looked_up(table, self.lower), codebook.looked_up(table, self.upper)
        gap = (high - low).detach().float().clamp(min=_LEAST_GAP)
        temperature = _WARM * (_COLD / _WARM) ** self.hardness
        share = torch.sigmoid((self.weight - self.limit) / gap * (2 / temperature))
        return torch.lerp(low, high, share.to(low.dtype))

    def chosen(self, codebook: Codebook) -> Codebook:
        """The codebook with the codes that the mixtures tend to, after each latent weight has looked for its
        neighbours; no gradient."""
        for held, found in zip((self.lower, self.upper), neighbours(codebook, self.weight), strict=True):
            held.copy_(found)
        self.limit.copy_(self._limits(codebook))
        return replace(codebook, codes=torch.where(self.weight > self.limit, self.upper, self.lower))

    def _limits(self, codebook: Codebook) -> Tensor:
        """Where squared error + price x bits is the same for both centroids; float32, in the shape of the weight."""
        table = codebook.centroids.float()
        low, high = codebook.looked_up(table, self.lower), codebook.looked_up(table, self.upper)
        limit = (low + high) / 2
        if codebook.price:
            bits, price = codebook.priced_bits().float(), codebook.prices()
            each: Tensor | float = codebook.price
            if len(price) > 1:
                bits = bits.expand(len(price), -1)
                each = codebook.looked_up(price.float()[:, None].expand(-1, codebook.k), self.upper)
            more = codebook.looked_up(bits, self.upper) - codebook.looked_up(bits, self.lower)
            limit += each / 2 * more / (high - low).clamp(min=_LEAST_GAP)
        return limit


@torch.no_grad()
def neighbours(codebook: Codebook, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of the centroids below and above each weight, in its shape; outside their range of the two at that end, of
    a single centroid twice its own. Where bits have a price, of the centroids that are chosen at all; where zeros stay,
    those of the weight have twice the centroid 0.

    Args:
        codebook: of single weights.
        weight: float32, in the shape of the codes.
    """
    order, limits = codebook.choices()
    if order.shape[1] == 1:
        order = order.expand(-1, 2)
    inner = codebook.centroids.float().reshape(-1, codebook.k).gather(1, order)[:, 1:-1]
    if limits.shape[1]:
        inner = inner.clamp(limits[:, :-1], limits[:, 1:])
    cells = codebook.cells(weight, inner)
    codes = order.to(codebook.codes.dtype)
    below, above = codebook.looked_up(codes, cells), codebook.looked_up(codes, cells + 1)
    return codebook.zeros_kept(weight, below), codebook.zeros_kept(weight, above)
