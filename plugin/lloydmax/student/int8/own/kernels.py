"""The integer kernels of oneDNN, which PyTorch has as operators of their own: no compiler and no host is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lloydmax.runtime import machine
from lloydmax.student.int8.own.grids import Grid
from lloydmax.student.int8.own.operation import Operation

_CONVOLUTIONS = ("", "qconv1d_pointwise", "qconv2d_pointwise", "qconv3d_pointwise")


def serves(operation: Operation, integers: Tensor, zero_point: Tensor) -> bool:
    """Whether a kernel of this machine computes a layer, and computes it rightly.

    Args:
        operation: of the layer.
        integers: its weight.
        zero_point: of the weight.
    """
    return (
        machine.is_x86()
        and torch.backends.mkldnn.is_available()
        and integers.device.type == "cpu"
        and operation.axes >= 0
        and operation.mode == "zeros"
        and not isinstance(operation.padding, str)
        and not bool(zero_point.any())
        and not (machine.saturates() and int(integers.abs().max()) > 63)
        and hasattr(torch.ops.onednn, _CONVOLUTIONS[operation.axes] or "qlinear_pointwise")
    )


class Kernel:
    """A layer packed for its kernel.

    Args:
        operation: of the layer.
        integers: int8, its weight.
        scale: float32, of the weight.
        given: the grid of the inputs.
        shape: of the inputs that the weight is packed for; others are taken too.
    """

    def __init__(
        self, operation: Operation, integers: Tensor, scale: Tensor, given: Grid, shape: Sequence[int] | None = None
    ) -> None:
        self._given, self._scale = given, scale
        self._zeros = torch.zeros(len(scale), dtype=torch.int32)
        self._axes = operation.axes
        self._around: tuple[Any, ...] = ()
        packed_for = None if shape is None else list(shape)
        if operation.axes == 0:
            self._weight = torch.ops.onednn.qlinear_prepack(integers, packed_for)
            return
        around = list(operation.stride), list(operation.padding), list(operation.dilation)
        self._around = (*around, operation.groups)
        point = given.scale, given.zero_point
        self._weight = torch.ops.onednn.qconv_prepack(integers, scale, *point, *self._around, packed_for)

    def __call__(self, x: Tensor, bias: Tensor | None, gives: Grid | None, relu: bool) -> Tensor:
        """uint8 inputs -> uint8 outputs on a grid, or float32."""
        name = _CONVOLUTIONS[self._axes] or "qlinear_pointwise"
        fused = relu and self._axes < 3
        point = (1.0, 0, torch.float32) if gives is None else (gives.scale, gives.zero_point, torch.uint8)
        weight = x, self._given.scale, self._given.zero_point, self._weight, self._scale, self._zeros, bias
        compute = getattr(torch.ops.onednn, name)
        found: Tensor = compute(*weight, *self._around, *point, "relu" if fused else "none", [], "")
        return found if fused or not relu else found.clamp_(min=0 if gives is None else gives.zero_point)
