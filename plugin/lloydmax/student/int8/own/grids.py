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
        return torch.round(x * inverse).add_(self.zero_point).clamp_(0, 255).to(torch.uint8)

    def decoded(self, q: Tensor) -> Tensor:
        """uint8 -> float32."""
        if (operators := exported_operators()) is not None:
            return operators.dequantize_per_tensor(q, self.scale, self.zero_point, 0, 255, torch.uint8)
        return (q.to(torch.float32) - self.zero_point) * self.scale


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
