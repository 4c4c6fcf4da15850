"""The fake quantizers of the int8 student: weights that hold a codebook, and trained thresholds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lloydmax.student.fake_quantize import CodebookWeightFakeQuantize
from lloydmax.student.int8.fx.host import FakeQuantizeBase
from lloydmax.student.int8.fx.scales import LowBitZeroPoint, WeightScale, too_few_bits
from lloydmax.student.thresholds import TrainedThreshold


class HeldCodebookFakeQuantize(CodebookWeightFakeQuantize, FakeQuantizeBase):
    """``QConfig.weight`` of a layer whose codebook was fitted before; it is given by ``hold``."""


class ThresholdFakeQuantize(TrainedThreshold, FakeQuantizeBase):
    """``QConfig.weight`` and ``QConfig.activation`` with trained thresholds.

    See :class:`~lloydmax.student.thresholds.TrainedThreshold` for arguments and behaviour. ``disable_observer`` keeps
    the observed range, ``disable_fake_quant`` lets float values through.

    ``convert_fx`` quantizes weights to the whole of qint8, whatever the thresholds are; so the scale that it is given
    clips them.
    """

    @property
    def activation_post_process(self) -> ThresholdFakeQuantize:
        """Where hosts look for the ranges of the integers."""
        return self

    @property
    def is_dynamic(self) -> bool:
        """Never: a converted model has the scale and zero point that were found.

        ``prepare_fx`` asks this of fake quantizers that have seen nothing yet, ``convert_fx`` of those it replaces.

        Raises:
            IntegrationError: activations of fewer than 8 bits are converted.
        """
        if not self.weights and self.bits < 8 and self.observed:
            raise too_few_bits(self.bits)
        return False

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale and zero point.

        Raises:
            IntegrationError: nothing was observed.
        """
        scale, zero_point = super().calculate_qparams()
        if self.weights:
            integers = {"quant_min": self.quant_min, "quant_max": self.quant_max}
            scale = WeightScale.of(scale, **integers, granularity=self.granularity, axis=self.axis)
        elif self.bits < 8:
            zero_point = LowBitZeroPoint.of(zero_point, bits=self.bits)
        return scale, zero_point


class LevelsFakeQuantize(ThresholdFakeQuantize):
    """A weight with trained thresholds whose layer becomes a codebook layer: for what the int8 kernels get wrong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dtype, self.qscheme = torch.uint8, torch.per_tensor_affine
