"""Soft weights: while it trains, the network computes with a mixture of the two centroids between which each latent
weight lies, and the mixtures harden in the course of the run.

``codes: anneal`` is the differentiable k-means of Cho et al. (2022, DKM), with the attention of a weight limited to
the two centroids next to it, and a temperature that falls. ``codes: round`` lets each weight choose between the
centroids below and above the original one, by the rectified sigmoid and the regularizer of Nagel et al. (2020,
AdaRound). In the last steps all weights are hard, and latent ones learn by the straight-through estimator.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from lloydmax.codebook import Codebook
from lloydmax.student import CodebookWeight
from torch import Tensor

from lloydmax_strategies.training.latent import StraightThrough

_SOFT = 0.85
"""Share of the steps in which weights are soft."""
_WARM, _COLD = 0.5, 0.01
"""The first and the last temperature, in units of the squared distance of the two centroids."""
_LOW, _HIGH = -0.1, 1.1
"""What the sigmoid is stretched to before it is cut off at 0 and 1."""
_SLOPE = 4 / (_HIGH - _LOW)
"""Of the argument of that sigmoid: the mixture moves as much as the latent weight, halfway between the centroids."""
_EXPONENTS = 20.0, 2.0
"""The first and the last of the regularizer."""
_STRENGTH = 1.0
"""Of the regularizer at the end: rms of its gradient, in units of that of the loss's."""
_LEAST_GAP = 1e-12


class Soft(StraightThrough):
    """A mixture of two centroids, ``lower`` and ``upper`` (codes); the larger share is the upper one's where the latent
    weight is above ``limit``. Codebooks of single weights only."""

    vectors: ClassVar[bool] = False

    def __init__(self, weight: Tensor, holder: CodebookWeight, centroids: Tensor) -> None:
        super().__init__(weight, holder, centroids)
        self.progress = 0.0
        codebook = holder.holding(centroids)
        self.lower, self.upper = neighbours(codebook, self.weight)
        self.limit = self.limits(codebook)

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
        return torch.lerp(low, high, self.share((self.weight - self.limit) / gap).to(low.dtype))

    def share(self, distance: Tensor) -> Tensor:
        """Of the upper centroid, 0 to 1.

        Args:
            distance: of the latent weight from the limit, in units of that of the two centroids.
        """
        raise NotImplementedError

    def limits(self, codebook: Codebook) -> Tensor:
        """Where squared error + price x bits is the same for both centroids; float32, in the shape of the weight."""
        low, high = self._ends(codebook)
        limit = (low + high) / 2
        if codebook.price:
            bits = codebook.priced_bits().float()
            more = codebook.looked_up(bits, self.upper) - codebook.looked_up(bits, self.lower)
            limit += codebook.price / 2 * more / (high - low).clamp(min=_LEAST_GAP)
        return limit

    def chosen(self, codebook: Codebook) -> Codebook:
        """The codebook with the codes that the mixtures tend to; no gradient."""
        self.limit.copy_(self.limits(codebook))
        return replace(codebook, codes=torch.where(self.weight > self.limit, self.upper, self.lower))

    def _ends(self, codebook: Codebook) -> tuple[Tensor, Tensor]:
        table = codebook.centroids.float()
        return codebook.looked_up(table, self.lower), codebook.looked_up(table, self.upper)


class Annealed(Soft):
    """Shares by a softmax of -(squared distance + price x bits) / temperature."""

    option: ClassVar[str] = "anneal"

    def share(self, distance: Tensor) -> Tensor:
        """That softmax: what both exponents have in common cancels out."""
        return torch.sigmoid(distance * (2 / (_WARM * (_COLD / _WARM) ** self.hardness)))

    def chosen(self, codebook: Codebook) -> Codebook:
        """The codes chosen after the latent weight has looked for its neighbours."""
        for held, found in zip((self.lower, self.upper), neighbours(codebook, self.weight), strict=True):
            held.copy_(found)
        return super().chosen(codebook)


class Rounded(Soft):
    """Shares by a rectified sigmoid, between the neighbours of the first weight, which it gives at first. Starting from
    a centroid, it would stay there, where the sigmoid is cut off."""

    option: ClassVar[str] = "round"
    from_decoded: ClassVar[bool] = False

    def __init__(self, weight: Tensor, holder: CodebookWeight, centroids: Tensor) -> None:
        super().__init__(weight, holder, centroids)
        with torch.no_grad():
            self.latent.copy_(self._bent(holder.holding(centroids), self.weight) / self.scale)

    def share(self, distance: Tensor) -> Tensor:
        """That sigmoid."""
        return torch.sigmoid(_SLOPE * distance).mul(_HIGH - _LOW).add(_LOW).clamp(0, 1)

    def limits(self, codebook: Codebook) -> Tensor:
        """Those of the straight scale, on which the sigmoid gives the weight."""
        return self._bent(codebook, super().limits(codebook))

    def after_backward(self) -> None:
        """Add the gradient of the regularizer ``sum(1 - abs(2 share - 1) ** exponent)``, on the scale of the loss's."""
        gradient = self.latent.grad
        if self.hardness == 1 or gradient is None:
            return
        holder, centroids = self.held
        low, high = self._ends(holder.holding(centroids))
        first, last = _EXPONENTS
        with torch.enable_grad():
            share = self.share((self.weight - self.limit) / (high - low).clamp(min=_LEAST_GAP))
            kept = (2 * share - 1).abs().pow(first + (last - first) * self.hardness).sum()
            (push,) = torch.autograd.grad(-kept, self.latent)
        rms = push.square().mean().sqrt().clamp(min=1e-30)
        gradient.add_(push * (_STRENGTH * self.hardness * gradient.square().mean().sqrt() / rms))

    def _bent(self, codebook: Codebook, weight: Tensor) -> Tensor:
        """The argument of the sigmoid that gives these weights, as a weight; straight on outside the two centroids."""
        low, high = self._ends(codebook)
        gap = (high - low).clamp(min=_LEAST_GAP)
        place = (weight - low) / gap
        inside = place.clamp(0, 1)
        return (low + high) / 2 + gap * (torch.logit((inside - _LOW) / (_HIGH - _LOW)) / _SLOPE + place - inside)


PARAMETRIZATIONS = {kind.option: kind for kind in (StraightThrough, Annealed, Rounded)}
"""By value of the option ``codes``."""


@torch.no_grad()
def neighbours(codebook: Codebook, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of the centroids below and above each weight, in its shape; outside their range of the two at that end, of
    a single centroid twice its own. Where bits have a price, of the centroids that are chosen at all.

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
    return codebook.looked_up(codes, cells), codebook.looked_up(codes, cells + 1)
