"""What can be told of a file before anything is fitted: centroids that a weight can fill, bytes of its codes."""

from __future__ import annotations

import torch
from torch import Tensor

from lloydmax.codebook.blocks import Blocks
from lloydmax.codebook.layout import Layout
from lloydmax.format import coding
from lloydmax.hooks import registry
from lloydmax.plan.parameter import PlannedParameter

_SAMPLES = 1 << 6, 1 << 10, 1 << 16
"""Weights whose distinct values are counted first, at least twice as many as centroids."""
_FEW = 1 << 10
"""Numbers whose distinct ones are soon told without sorting them."""
_CODED_SAMPLE = 1 << 20
"""Weights of a parameter from which the length of its entropy-coded codes is foretold."""


def most_centroids(weight: Tensor, layout: Layout) -> int:
    """How many centroids one codebook can have: the layout's, or the number of distinct values if that is less.

    Strided samples decide quickly for ordinary weights; all values are looked at only where it has few.
    """
    wanted = layout.centroids
    if layout.block > 1:
        return max(int(Blocks(group).distinct(wanted).max()) for group in layout.groups(weight))
    if layout.codebooks > 1:
        most = 0
        for group in layout.groups(weight):
            for row in range(len(group)):
                most = max(most, _distinct(group[row]))
                if most >= min(wanted, group[row].numel()):  # no other one has more
                    return min(most, wanted)
        return most
    flat = weight.reshape(-1)
    for size in _SAMPLES:
        if _distinct(flat[:: max(1, flat.numel() // max(size, 2 * wanted))]) > wanted:
            return wanted
    return min(wanted, _distinct(flat))


def _distinct(values: Tensor) -> int:
    return len(set(values.reshape(-1).tolist())) if values.numel() <= _FEW else int(values.unique().numel())


def expected_stream(p: PlannedParameter, weight: Tensor, kind: str) -> int:
    """Bytes of the codes in a coding, from fitting the weight, or evenly spaced channels of a large one;
    codes of blocks, which gain little, count as packed."""
    if p.block > 1:
        return p.code_bytes
    channels = p.layout.channels_first(weight) if weight.dim() else weight.reshape(1)
    sample = channels[:: max(1, weight.numel() // _CODED_SAMPLE)]
    if not bool(torch.isfinite(sample).all()):
        return p.code_bytes
    codebook = registry.make("quantizer", p.quantizer, p.options).fit(sample.contiguous())
    coded = len(coding.encode(codebook.codes, codebook.bits, kind))
    return round(coded * weight.numel() / sample.numel())
