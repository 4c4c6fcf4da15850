"""What a report says about each compressed parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lloydmax import native
from lloydmax.codebook.codebook import Codebook
from lloydmax.format.sizes import Sizes
from lloydmax.plan.plan import Plan

BINS = 64
"""Of a histogram at most."""
DRAWN = 64
"""Centroids that are drawn at most."""
_CHUNK = 1 << 18
"""Weights that are counted at once."""


@dataclass(frozen=True)
class Histogram:
    """The distribution of the weights of one parameter, and where its centroids lie in it.

    Attributes:
        low: the smallest weight.
        high: the largest weight.
        counts: weights in each of at most :data:`BINS` bins of equal width from ``low`` to ``high``.
        centroids: at most :data:`DRAWN` of the values in its codebooks, ascending; of more, evenly by rank.
        values: how many values its codebooks hold in all.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    centroids: tuple[float, ...]
    values: int


@dataclass(frozen=True)
class LayerReport:
    """One compressed parameter.

    Attributes:
        name: full name.
        shape: of the weight.
        centroids: of one codebook.
        granularity: what shares a codebook.
        bits: of the codes of one weight, as stored; of entropy-coded ones the mean.
        bytes: codes and codebooks, as stored.
        snr: signal-to-noise ratio in dB of the weight, after recovery; infinite where it is kept exactly.
        trained: whether its centroids were trained.
        weights: the original weights, and the centroids after recovery.
        block: weights that one centroid replaces: of vector codebooks more than 1.
    """

    name: str
    shape: tuple[int, ...]
    centroids: int
    granularity: str
    bits: float
    bytes: int
    snr: float
    trained: bool
    weights: Histogram
    block: int = 1

    @property
    def file_bits(self) -> float:
        """Bits of the file for each weight, codes and codebooks: what tables show."""
        return 8 * self.bytes / math.prod(self.shape)


def layer_reports(plan: Plan, weights: dict[str, Tensor], held: dict[str, Codebook], sizes: Sizes) -> list[LayerReport]:
    """One :class:`LayerReport` for each planned parameter.

    Args:
        plan: the plan.
        weights: the original weights by name.
        held: the finished codebooks by name.
        sizes: of the finished model.
    """
    reports = []
    for p in plan.parameters.values():
        codebook = held[p.name]
        weight = weights[p.name].to(codebook.codes.device)
        codes, fixed = sizes.codes[p.name], p.with_centroids(codebook.k).code_bytes
        reports.append(
            LayerReport(
                name=p.name,
                shape=p.shape,
                centroids=codebook.k,
                granularity=p.granularity,
                bits=codebook.bits_per_weight if codes == fixed else 8 * codes / p.weights,
                bytes=codes + sizes.codebooks[p.name],
                snr=codebook.snr(weight),
                trained=p.name in plan.trainable,
                weights=histogram(weight, codebook.centroids),
                block=codebook.block,
            )
        )
    return reports


def histogram(weight: Tensor, centroids: Tensor) -> Histogram:
    """The histogram of a weight, with the values of its codebooks.

    Args:
        weight: any shape, finite, not empty.
        centroids: any shape.
    """
    flat = weight.detach().reshape(-1)
    low, high = native.ends(flat) if _served(flat) else map(float, torch.aminmax(flat))
    values = np.sort(centroids.detach().reshape(-1).float().cpu().numpy())
    drawn = values[torch.linspace(0, len(values) - 1, min(len(values), DRAWN)).round().long().numpy()]
    return Histogram(
        low=_short(low),
        high=_short(high),
        counts=tuple(_counts(flat, low, high)),
        centroids=tuple(_short(value) for value in drawn.tolist()),
        values=len(values),
    )


def _counts(flat: Tensor, low: float, high: float) -> list[int]:
    bins = min(BINS, max(1, math.isqrt(flat.numel()))) if high > low else 1
    factor = bins / (high - low) if high > low else 0.0
    total = (native.bins if _served(flat) else in_bins)(flat, low, factor, bins)
    counts: list[int] = total.tolist()
    return counts


def _served(flat: Tensor) -> bool:
    """Whether the core counts these values."""
    return native.active() and flat.device.type == "cpu" and flat.dtype == torch.float32 and flat.is_contiguous()


def in_bins(flat: Tensor, low: float, factor: float, bins: int) -> Tensor:
    """The twin of the native ``bins``."""
    total = torch.zeros(bins, dtype=torch.int64)
    for part in flat.split(_CHUNK):
        place = (part.double() - low).mul_(factor).long().clamp_(0, bins - 1)
        total += torch.bincount(place.cpu(), minlength=bins)
    return total


def _short(value: float) -> float:
    """Six digits, which is more than a picture shows."""
    return float(f"{value:.6g}")
