"""Codebooks of 8-bit integers: every centroid is an integer of -127 to 127 times the scale of its codebook.

The scale has the 8 significant bits of bfloat16 and is the largest magnitude over 127. Products with the integers are
then exact in float32, so that the scale and the integers can be told from the centroids again: rounding twice is
rounding once, and a file holds one byte for each centroid and loses nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lloydmax.codebook.layout import Layout

SCALE_BYTES = 2
"""Of a bfloat16."""
_MOST = 127
"""The largest integer; -128 would make the range uneven."""


def pays(layout: Layout, float_bytes: int) -> bool:
    """Whether integers and a scale take fewer bytes than the floats of a codebook."""
    return layout.values + SCALE_BYTES < layout.values * float_bytes


def rounded(rows: Tensor) -> Tensor:
    """The nearest codebooks of 8-bit integers.

    Args:
        rows: ``(codebooks, values)``, float32, finite.
    """
    integers, scale = _split(rows)
    return integers * scale


def to_bytes(rows: Tensor) -> Tensor | None:
    """``(codebooks, values + 2)`` int8: the integers, then the bfloat16 of their scale, low byte first.

    ``None`` where that loses a bit of the centroids.
    """
    integers, scale = _split(rows)
    if not torch.equal((integers * scale).view(torch.int32), rows.contiguous().view(torch.int32)):
        return None
    return torch.cat([integers.to(torch.int8), scale.to(torch.bfloat16).view(torch.int8)], 1)


def from_bytes(stored: Tensor) -> Tensor:
    """The reverse: ``(codebooks, values)``, float32."""
    scale = stored[:, -SCALE_BYTES:].clone(memory_format=torch.contiguous_format).view(torch.bfloat16).float()
    return stored[:, :-SCALE_BYTES].float() * scale


def within(stored: Tensor) -> bool:
    """Whether the integers of what :func:`to_bytes` gave are not below the smallest."""
    return int(stored[:, :-SCALE_BYTES].amin()) >= -_MOST


def _split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Integers ``(codebooks, values)`` and scales ``(codebooks, 1)``, float32."""
    scale = (rows.detach().abs().amax(1, keepdim=True) / _MOST).to(torch.bfloat16).float()
    integers = (rows.detach() / torch.where(scale > 0, scale, 1.0)).round().clamp(-_MOST, _MOST)
    return torch.where(scale > 0, integers, 0.0) + 0.0, scale
