"""Zeros of a pruned weight."""

from __future__ import annotations

from torch import Tensor

from lloydmax.codebook.layout import Layout

MANY_ZEROS = 0.2
"""Share of zeros from which a weight counts as pruned."""


def zero_share(weight: Tensor, layout: Layout) -> float:
    """The share of zeros, or of blocks that are 0 as a whole."""
    others = weight.detach() if layout.block == 1 else ~layout.zeros(weight.detach())
    return (others.numel() - int(others.count_nonzero())) / others.numel()
