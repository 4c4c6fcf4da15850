"""The integers of activations: uint8, ``(q - zero_point) * scale``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Grid:
    """Scale and zero point of activations."""

    scale: float
    zero_point: int

    def integers(self, x: Tensor) -> Tensor:
        """float32 -> uint8."""
        return torch.round(x * self._inverse).add_(self.zero_point).clamp_(0, 255).to(torch.uint8)

    def decoded(self, q: Tensor) -> Tensor:
        """uint8 -> float32."""
        return (q.to(torch.float32) - self.zero_point) * self.scale

    @property
    def _inverse(self) -> float:
        """As torch's kernels have it: in float32."""
        return float(torch.tensor(1.0) / torch.tensor(self.scale))


class Quantize(nn.Module):
    """float32 -> uint8 on a grid."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """Rounded."""
        return self.grid.integers(x)

    def extra_repr(self) -> str:
        """The grid."""
        return str(self.grid)


class Dequantize(Quantize):
    """uint8 on a grid -> float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Decoded."""
        return self.grid.decoded(x)
