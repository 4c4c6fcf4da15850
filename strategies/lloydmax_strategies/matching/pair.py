"""Means, variances and covariance of what a layer and its original compute."""

from __future__ import annotations

import torch
from torch import Tensor

_CONSTANT, _TINY = 1e-6, 1e-30
"""Variance, relative to the squared mean and absolute, below which a channel counts as constant: its slope is 1."""
_MOST = 4.0
"""How far a codebook may be scaled."""
_PIECE = 1 << 24
"""Values that are taken in at once: they are copied a few times."""


class Pair:
    """Of one batch after the other, channel by channel, in float64.

    Args:
        covariance: whether a relative :meth:`shift` will be asked for.
    """

    def __init__(self, covariance: bool = False) -> None:
        self.count, self._covariance = 0, covariance
        self._mean = self._squares = self._products = torch.zeros(())

    def add(self, wanted: Tensor, found: Tensor) -> None:
        """Take in one batch of the original and of the layer, ``(channels, n)`` (merged as by Chan et al. 1979). Where
        a router gave one of them more, the first of these count."""
        columns = min(wanted.shape[1], found.shape[1])
        if not columns:
            return
        most = max(1, _PIECE // len(wanted))
        for one, other in zip(wanted[:, :columns].split(most, 1), found[:, :columns].split(most, 1), strict=True):
            self._add(one, other)

    def _add(self, wanted: Tensor, found: Tensor) -> None:
        count, both = wanted.shape[1], torch.stack([wanted, found])
        mean = both.mean(2, keepdim=True)
        both = both - mean
        squares = both.square().sum(2, dtype=torch.float64)
        products = (both[0] * both[1]).sum(1, dtype=torch.float64) if self._covariance else squares[0]
        mean = mean[:, :, 0].double()
        if self.count:
            shift, total = mean - self._mean, self.count + count
            weight = self.count * count / total
            squares = squares + self._squares + weight * shift.square()
            products = products + self._products + weight * shift[0] * shift[1]
            mean = self._mean + shift * (count / total)
        self._mean, self._squares, self._products = mean, squares, products
        self.count += count

    @property
    def found(self) -> Tensor:
        """The mean of what the layer computes, ``(channels,)``."""
        return self._mean[1]

    def shift(self, relative: bool) -> Tensor:
        """What the bias of the layer lacks, ``(channels,)``."""
        wanted, found = self._mean
        if not relative:
            return wanted - found
        constant = _CONSTANT * self.count * wanted.square() + _TINY
        slope = (self._products + constant) / (self._squares[0] + constant)
        return wanted * slope.clamp(0, 1) - found

    def variances(self) -> Tensor:
        """Of what the original and the layer compute, ``(2, channels)``."""
        return self._squares / max(self.count, 1)


def ratio(variances: Tensor, owners: Tensor) -> Tensor:
    """By what the products of a layer are multiplied to have the deviation of those of the original, for each codebook,
    ``(codebooks,)``.

    Args:
        variances: of both, ``(2, channels)``.
        owners: number of the codebook of every channel, int64 ``(channels,)``.
    """
    sums = torch.zeros((2, int(owners.max()) + 1), dtype=torch.float64, device=owners.device)
    wanted, found = sums.index_add_(1, owners, variances.to(owners.device))
    factor = (wanted / found.clamp(min=_TINY)).sqrt().clamp(1 / _MOST, _MOST)
    return torch.where((wanted > _TINY) & (found > _TINY), factor, 1)
