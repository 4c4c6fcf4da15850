"""Fake quantizers that belong to no host: two switches, and what is fake-quantized."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.student.fake_quantize import CodebookWeightFakeQuantize
from lloydmax.student.thresholds import TrainedThreshold


class Switched(nn.Module):
    """What every fake quantizer has, under the names that hosts use; both are on at first."""

    observer_enabled: Tensor
    fake_quant_enabled: Tensor

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        for name in ("observer_enabled", "fake_quant_enabled"):
            self.register_buffer(name, torch.ones(1, dtype=torch.uint8))


class Threshold(TrainedThreshold, Switched):
    """Of a weight or of activations; see :class:`~lloydmax.student.thresholds.TrainedThreshold`."""


class HeldCodebook(CodebookWeightFakeQuantize, Switched):
    """Of a weight whose codebook was fitted before; it is given by ``hold``."""


class Bounded(Switched):
    """Of activations whose range is known: rounds to ``(q - zero_point) * scale`` with q from 0 to 255."""

    def __init__(self, scale: float, zero_point: int, **_: Any) -> None:
        super().__init__()
        self.scale, self.zero_point = scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        """Quantized and decoded; ``x`` itself while fake quantization is disabled."""
        if not self.fake_quant_enabled[0]:
            return x
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, 255)

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale, float32, and zero point, int32, each ``(1,)``."""
        return torch.tensor([self.scale]), torch.tensor([self.zero_point], dtype=torch.int32)
