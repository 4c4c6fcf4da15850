"""The fake quantizers of the int8 student: held codebooks, and trained thresholds of weights and activations."""

from __future__ import annotations

import sys
import warnings
import weakref
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import spread
from lloydmax.errors import IntegrationError
from lloydmax.network.channels import is_depthwise
from lloydmax.student.fake_quantize import CodebookWeightFakeQuantize
from lloydmax.student.int8.host import FakeQuantizeBase
from lloydmax.student.thresholds import TrainedThreshold

_CONVERSION = ("torch.ao.quantization.fx.convert", "torch.ao.nn.")


class HeldCodebookFakeQuantize(CodebookWeightFakeQuantize, FakeQuantizeBase):
    """``QConfig.weight`` of a layer whose codebook was fitted before; it is given by ``hold``."""


class ThresholdFakeQuantize(TrainedThreshold, FakeQuantizeBase):
    """``QConfig.weight`` and ``QConfig.activation`` with trained thresholds.

    See :class:`~lloydmax.student.thresholds.TrainedThreshold` for arguments and behaviour. ``disable_observer`` keeps
    the observed range, ``disable_fake_quant`` lets float values through.

    ``convert_fx`` quantizes weights to the whole of qint8, whatever the thresholds are; so what it is given is the
    clipped weight.
    """

    @property
    def activation_post_process(self) -> ThresholdFakeQuantize:
        """Where hosts look for the ranges of the integers."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """As in :class:`~lloydmax.student.thresholds.TrainedThreshold`; clips the weight that is being converted.

        Raises:
            IntegrationError: the kernels would refuse that layer, or compute it wrongly.
        """
        found = super().forward(x)
        if self.weights and isinstance(x, nn.Parameter) and (frame := _conversion()) is not None:
            self._check_kernels(frame.f_locals.get("float_module"))
            if frame.f_locals.get("is_ptq"):  # the weight is still that of the user's model; this module is temporary
                weakref.finalize(self, _give_back, x, x.data)
            x.data = self.quantized(x.detach())
        return found

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale and zero point.

        Raises:
            IntegrationError: nothing was observed; or activations of fewer than 8 bits are converted.
        """
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not self.weights and self.bits < 8 and caller.startswith(_CONVERSION):
            raise IntegrationError(
                f"torch's int8 kernels clip activations to 8 bits, so a model with {self.bits}-bit ones would give "
                "other outputs once converted: use activation_bits=8, or keep the prepared model"
            )
        return super().calculate_qparams()

    def _check_kernels(self, layer: Any) -> None:
        engine = torch.backends.quantized.engine
        if engine == "onednn" and bool(self.calculate_qparams()[1].any()):
            raise IntegrationError(
                "the onednn kernels take symmetric weights only: use scheme='symmetric', or "
                "torch.backends.quantized.engine = 'x86'"
            )
        if engine in ("x86", "fbgemm") and is_depthwise(layer) and bool(self.calculate_qparams()[1].any()):
            raise IntegrationError(
                f"the depthwise int8 kernels of {engine} compute asymmetric weights wrongly: use scheme='symmetric' "
                "for depthwise convolutions, or a recipe, in which such layers run from their levels in float"
            )
        transposed = getattr(layer, "transposed", False) and layer.in_channels != layer.out_channels
        if transposed and engine in ("x86", "onednn"):
            raise IntegrationError(
                f"the int8 kernels of {engine} compute a transposed convolution with {layer.in_channels} input and "
                f"{layer.out_channels} output channels wrongly: leave it float (qconfig None) or give it a codebook"
            )
        supported = getattr(torch.cpu, "_is_vnni_supported", lambda: True)
        if self.bits == 8 and engine in ("x86", "fbgemm") and not supported():
            warnings.warn(
                "this CPU lacks VNNI: its int8 kernels add pairs of products in 16 bits, which may saturate with "
                "8-bit weights and activations; use bits=7",
                UserWarning,
                stacklevel=6,
            )


class LevelsFakeQuantize(ThresholdFakeQuantize):
    """A weight with trained thresholds whose layer becomes a codebook layer: for what the int8 kernels get wrong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dtype, self.qscheme = torch.uint8, torch.per_tensor_affine
        self._codebook: Codebook | None = None

    def forward(self, x: Tensor) -> Tensor:
        """As in the base class; keeps the codes of the weight that is converted."""
        if isinstance(x, nn.Parameter) and _conversion() is not None:
            TrainedThreshold.forward(self, x)
            self._codebook = self._levels(x.detach())
        return TrainedThreshold.forward(self, x)

    def calculate_qparams(self, **_: Any) -> tuple[Any, Any]:
        """Scale and zero point; during conversion ``(codebook, None)``."""
        if self._codebook is not None:
            return self._codebook, None
        return super().calculate_qparams()

    def _levels(self, weight: Tensor) -> Codebook:
        scale, zero = super().calculate_qparams()
        shape = [1] * weight.dim()
        shape[self.axis] = -1
        integers = torch.round(weight.float() * (1 / scale).view(shape) + zero.view(shape))
        codes = (integers.clamp(self.quant_min, self.quant_max) - self.quant_min).to(torch.uint8)
        centroids = spread(torch.stack([scale, zero - self.quant_min], 1), self.quant_max - self.quant_min + 1)
        centroids = centroids.to(weight.dtype)
        return Codebook(centroids[0] if self.granularity == "tensor" else centroids, codes, self.granularity, self.axis)


def _give_back(parameter: nn.Parameter, values: Tensor) -> None:
    parameter.data = values


def _conversion(depth: int = 8) -> FrameType | None:
    """The frame in which ``convert_fx`` looks at a weight, if this is called from there."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and depth:
        if frame.f_code.co_name == "convert_weighted_module" and frame.f_globals.get("__name__") == _CONVERSION[0]:
            return frame
        frame, depth = frame.f_back, depth - 1
    return None
