"""Layers of quantized weights: while they are trained, and as they are run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import spread
from lloydmax.student.int8.own.grids import Grid, decoded_weight
from lloydmax.student.int8.own.kernels import Kernel, serves
from lloydmax.student.int8.own.operation import Operation


class FakeQuantizedLayer(nn.Module):
    """A standard layer whose weight goes through a fake quantizer; parameters keep their names.

    Args:
        layer: shares its parameters.
        quantizer: of the weight.
    """

    bias: Tensor | None
    original: nn.Module

    def __init__(self, layer: nn.Module, quantizer: nn.Module) -> None:
        super().__init__()
        self.operation = Operation.of(layer)
        self.__dict__["original"] = layer  # no module of this one: what it becomes is made of its numbers
        for name in ("weight", "bias"):
            self.register_parameter(name, layer._parameters.get(name))
        self.weight_fake_quant = quantizer

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives, with the quantized weight."""
        return self.operation(x, self.weight_fake_quant(self.weight), self.bias)


class IntegerLayer(nn.Module):
    """A layer whose weight and inputs are integers, with the ReLU that follows it.

    A kernel multiplies integers where the machine has one; elsewhere, in ``torch.export`` and on other devices, the
    same products are computed in floats.

    Attributes:
        integers: buffer, int8, the weight.
        scale, zero_point: buffers, float32 and int32, ``(1,)`` or ``(channels,)``.
        bias: buffer or ``None``.
        given: the grid of the inputs.
        gives: that of the outputs; ``None``: they are float32.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor | None

    def __init__(
        self,
        operation: Operation,
        weight: tuple[Tensor, Tensor, Tensor],
        levels: tuple[int, int],
        bias: Tensor | None,
        given: Grid,
        relu: bool,
    ) -> None:
        super().__init__()
        self.operation, self.levels, self.given, self.relu = operation, levels, given, relu
        self.gives: Grid | None = None
        for name, buffer in zip(("integers", "scale", "zero_point"), weight, strict=True):
            self.register_buffer(name, buffer)
        self.register_buffer("bias", bias)
        self._kernel: tuple[Kernel | None] | None = None

    @classmethod
    def of(cls, trained: FakeQuantizedLayer, levels: tuple[int, int], given: Grid, relu: bool) -> Self:
        """That of a layer with trained thresholds.

        Args:
            trained: on the CPU.
            levels: number of levels of the weight, and the lowest integer.
            given: the grid of the inputs.
            relu: whether a ReLU follows.
        """
        quantizer: Any = trained.weight_fake_quant
        scale, zero_point = quantizer.calculate_qparams()
        weight: Tensor = trained.weight.detach().float()  # type: ignore[operator]
        shape = [-1, *[1] * (weight.dim() - 1)]
        integers = torch.round(weight * (1 / scale).view(shape) + zero_point.view(shape))
        count, low = levels
        integers = integers.clamp(low, low + count - 1).to(torch.int8)
        bias = None if trained.bias is None else trained.bias.detach().float()
        return cls(trained.operation, (integers, scale, zero_point), levels, bias, given, relu)

    def weight_codebook(self) -> Codebook:
        """The codebook that the weight stands for."""
        count, low = self.levels
        rows = torch.stack([self.scale, (self.zero_point - low).float()], 1)
        centroids, codes = spread(rows, count), (self.integers.int() - low).to(torch.uint8)
        return Codebook(centroids[0], codes) if len(rows) == 1 else Codebook(centroids, codes, "channel", 0)

    def forward(self, x: Tensor) -> Tensor:
        """uint8 inputs on the grid ``given`` -> uint8 outputs on ``gives``, or float32."""
        if not torch.compiler.is_compiling() and (packed := self.kernel(x.shape)) is not None:
            return packed(x, self.bias, self.gives, self.relu)
        found = self.operation(self.given.decoded(x), self.weight, self.bias)
        found = F.relu(found) if self.relu else found
        return found if self.gives is None else self.gives.integers(found)

    def kernel(self, shape: Sequence[int] | None = None) -> Kernel | None:
        """What computes the layer on this machine, packed at the first use for inputs of that shape, if it has one."""
        if self._kernel is None:
            served = serves(self.operation, self.integers, self.zero_point)
            self._kernel = (Kernel(self.operation, self.integers, self.scale, self.given, shape) if served else None,)
        return self._kernel[0]

    @property
    def weight(self) -> Tensor:
        """In floats."""
        return decoded_weight(self.integers, self.scale, self.zero_point)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._kernel = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._kernel = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kernel": None}

    def extra_repr(self) -> str:
        """The operation and the grids."""
        return f"{self.operation}, {self.given} -> {self.gives or 'float32'}"
