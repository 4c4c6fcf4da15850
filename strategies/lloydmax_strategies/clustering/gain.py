"""Codebooks whose errors do not make a weight smaller.

A codebook whose centroids are the means of their members decodes to ``gain * weight`` and an error that has nothing to
do with the weight (Bussgang 1952), where the gain is 1 less the relative squared error. Errors average out in the sums
of a layer; gains do not, and those of all layers multiply. Centroids over the gain leave nothing but errors.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from lloydmax import Codebook
from torch import Tensor

_MOST = 1.98
"""How far centroids are stretched at most, in units of the stretch with the least error: at 2 the error would be that
of zeros."""
_PART = 1 << 22
"""Weights of which products are made at once."""


def unbiased(codebook: Codebook, weight: Tensor) -> Codebook:
    """The same codes, and the centroids of each codebook over its gain, the sum of decoded weight x weight over that of
    the weight's squares; the price of a bit over its square. Those that hold so little of the weight that this would
    cost more error than zeros are stretched less. A single centroid stays.

    Args:
        codebook: centroids are the means of their members.
        weight: what it was fitted to, in its shape.
    """
    if codebook.k == 1:
        return codebook
    common, own, squares = _products(codebook, weight)
    gain = common / squares.clamp(min=1e-300)
    gain = torch.where(common > 0, torch.maximum(gain, own / (_MOST * common)), 1.0)
    each = gain.view(-1, *[1] * (codebook.centroids.dim() - 1)) if len(gain) > 1 else gain
    centroids, price = codebook.centroids.double() / each, codebook.price / float(gain[0]) ** 2
    if len(gain) > 1:
        price = codebook.price * float(centroids.square().mean() / codebook.centroids.double().square().mean())
    return replace(codebook, centroids=centroids.to(codebook.centroids.dtype), price=price)


def suited(codebook: Codebook, weight: Tensor) -> Tensor:
    """The weight that suits the centroids: over the gain of each codebook that has been made unbiased, as it is where
    centroids are means (whose product with the weight is that with themselves); float32.

    Args:
        codebook: of the weight.
        weight: in its shape.
    """
    common, own, _ = _products(codebook, weight)
    stretch = torch.where(common > 0, own / common, 1.0)
    if codebook.layout.channels is not None:
        stretch = stretch[codebook.layout.owners(stretch.device)]
        stretch = stretch.view([-1 if axis == codebook.axis else 1 for axis in range(weight.dim())])
    return (weight.detach().double() * stretch).float()


def _products(codebook: Codebook, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each codebook the sums, float64 ``(codebooks,)``, of decoded weight x weight, and of the squares of both."""
    exact = weight.detach()
    if exact.numel() <= _PART or codebook.layout.codebooks > 1 or codebook.block > 1:
        decoded, exact = codebook.dequantize().double(), exact.double()
        return _sums(codebook, decoded * exact), _sums(codebook, decoded.square()), _sums(codebook, exact.square())
    total = torch.zeros(3, dtype=torch.float64, device=exact.device)
    for codes, part in zip(codebook.codes.reshape(-1).split(_PART), exact.reshape(-1).split(_PART), strict=True):
        decoded, values = codebook.centroids[codes.int()].double(), part.double()
        total += torch.stack([torch.dot(decoded, values), torch.dot(decoded, decoded), torch.dot(values, values)])
    common, own, squares = total.split(1)
    return common, own, squares


def _sums(codebook: Codebook, values: Tensor) -> Tensor:
    """Of the values of each codebook, ``(codebooks,)``."""
    channels = codebook.layout.channels
    if channels is None:
        return values.sum().view(1)
    sums = values.movedim(codebook.axis, 0).flatten(1).sum(1)
    return torch.stack([part.sum() for part in sums.split(channels)])
