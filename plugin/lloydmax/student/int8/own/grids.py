"""The integers of activations: uint8, ``(q - zero_point) * scale``.

In ``torch.export`` they are PT2E's operators, wherever torchao or ``torch.ao`` has registered these, so that its
backends find them; else plain ones that give the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LIMITS = {torch.uint8: (0, 255), torch.int8: (-128, 127)}


@dataclass(frozen=True)
class Grid:
    """Scale and zero point of activations."""

    scale: float
    zero_point: int

    def integers(self, x: Tensor) -> Tensor:
        """float32 -> uint8."""
        if (operators := exported_operators()) is not None:
            return operators.quantize_per_tensor(x, self.scale, self.zero_point, 0, 255, torch.uint8)
        inverse = float(np.float32(1) / np.float32(self.scale))  # as torch's fake quantization multiplies
        found = torch.round(x * inverse) if torch.compiler.is_compiling() else (x * inverse).round_()
        return found.add_(self.zero_point).clamp_(0, 255).to(torch.uint8)

    def decoded(self, q: Tensor) -> Tensor:
        """uint8 -> float32."""
        if (operators := exported_operators()) is not None:
            return operators.dequantize_per_tensor(q, self.scale, self.zero_point, 0, 255, torch.uint8)
        found = q.to(torch.float32)
        if torch.compiler.is_compiling():
            return (found - self.zero_point) * self.scale
        return found.sub_(self.zero_point).mul_(self.scale)  # new memory takes longer than the arithmetic


def decoded_weight(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """int8 weight, scales and zero points ``(1,)`` or ``(channels,)`` -> float32."""
    if len(scale) > 1 and (operators := exported_operators()) is not None:
        return operators.dequantize_per_channel(integers, scale, zero_point, 0, -128, 127, torch.int8)
    shape = [-1, *[1] * (integers.dim() - 1)]
    return (integers - zero_point.view(shape)) * scale.view(shape)


def exported_operators() -> Any:
    """PT2E's operators while a program is made that may have them; else ``None``."""
    if not torch.compiler.is_compiling() or not hasattr(torch.ops.quantized_decomposed, "quantize_per_tensor"):
        return None
    return torch.ops.quantized_decomposed


class Sum(nn.Module):
    """Integers of two activations -> those of their sum, and of a ReLU if one follows."""

    def __init__(self, one: Grid, other: Grid, gives: Grid, relu: bool) -> None:
        super().__init__()
        self.one, self.other, self.gives, self.relu = one, other, gives, relu

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """uint8 on ``one``, uint8 on ``other`` -> uint8 on ``gives``."""
        if torch.compiler.is_compiling():
            found = self.one.decoded(x) + self.other.decoded(y)
            return self.gives.integers(torch.relu(found) if self.relu else found)
        a, b = self.one.scale / self.gives.scale, self.other.scale / self.gives.scale
        start = self.gives.zero_point - a * self.one.zero_point - b * self.other.zero_point
        found = x.to(torch.float32).mul_(a).add_(y.to(torch.float32), alpha=b).add_(start).round_()
        return found.clamp_(self.gives.zero_point if self.relu else 0, 255).to(torch.uint8)


class Clamp(nn.Module):
    """Integers -> the same within limits."""

    def __init__(self, grid: Grid, low: float, high: float) -> None:
        super().__init__()
        self.grid, self.low, self.high = grid, low, high
        ends = grid.integers(torch.tensor([low, high]).clamp(-1e6, 1e6)).tolist()
        self.least, self.most = int(ends[0]), int(ends[1])

    def forward(self, x: Tensor) -> Tensor:
        """uint8 -> uint8."""
        if torch.compiler.is_compiling():
            return self.grid.integers(self.grid.decoded(x).clamp(self.low, self.high))
        return x.clamp(self.least, self.most)


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
