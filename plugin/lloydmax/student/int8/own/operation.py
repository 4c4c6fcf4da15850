"""What a layer computes with its weight, whatever the weight is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


@dataclass(frozen=True)
class Operation:
    """What a layer computes with its weight.

    Attributes:
        axes: of the image: 0 linear, 1 to 3 convolutions; -1: looks numbers up in a table.
        padding: for each axis, or ``"same"``, ``"valid"``.
        around: what ``F.pad`` takes, where ``mode`` is other than ``zeros``.
    """

    axes: int
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    mode: str = "zeros"
    around: tuple[int, ...] = ()
    padding_idx: int | None = None

    @classmethod
    def of(cls, layer: Any) -> Self:
        """That of a standard layer."""
        if isinstance(layer, nn.Linear):
            return cls(0)
        if isinstance(layer, nn.Embedding):
            return cls(-1, padding_idx=layer.padding_idx)
        around = tuple(layer._reversed_padding_repeated_twice)
        given = (layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode, around)
        return cls(len(layer.kernel_size), *given)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The outputs, in floats."""
        if self.axes == 0:
            return F.linear(x, weight, bias)
        if self.axes < 0:
            return F.embedding(x, weight, self.padding_idx)
        padding: Any = self.padding
        if self.mode != "zeros":
            x, padding = F.pad(x, self.around, mode=self.mode), 0
        convolve: Any = _CONVOLUTIONS[self.axes - 1]
        found: Tensor = convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)
        return found
