"""Trained thresholds as ``QConfig``: int8 layers for ``prepare_qat_fx`` (or ``prepare_fx``) and ``convert_fx``."""

from __future__ import annotations

import functools
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
from lloydmax.student.int8.host import FakeQuantizeBase, QConfig, QConfigMapping
from lloydmax.student.thresholds import Scheme, TrainedThreshold

_CONVERSION = ("torch.ao.quantization.fx.convert", "torch.ao.nn.")


class ThresholdFakeQuantize(TrainedThreshold, FakeQuantizeBase):
    """``QConfig.weight`` and ``QConfig.activation`` with trained thresholds.

    See :class:`~lloydmax.student.thresholds.TrainedThreshold` for arguments and behaviour. ``disable_observer`` keeps the
    observed range, ``disable_fake_quant`` lets float values through.

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
        """As in :class:`~lloydmax.student.thresholds.TrainedThreshold`; keeps the codes of the weight that is converted."""
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


def threshold_qconfig(
    bits: int = 8,
    scheme: Scheme = "symmetric",
    granularity: str = "tensor",
    *,
    activation_bits: int = 8,
    activation_scheme: Scheme = "asymmetric",
    axis: int = 0,
) -> Any:
    """A QConfig with trained thresholds for weights and activations.

    Args:
        bits: of the weights, 2 to 8; below 8 they still run on the int8 kernels.
        scheme: of the weights: ``"symmetric"`` or ``"asymmetric"``. ``onednn`` refuses asymmetric ones; ``x86`` and
            ``fbgemm`` run them, but not in depthwise convolutions, whose conversion is refused.
        granularity: of the weights: ``"tensor"`` or ``"channel"``.
        activation_bits: 2 to 8; only 8 can be converted.
        activation_scheme: ``"symmetric"`` or ``"asymmetric"``.
        axis: of the output channels: 1 for transposed convolutions.

    Raises:
        FitError: a value outside of these.
    """
    weight = ThresholdFakeQuantize.with_args(bits=bits, scheme=scheme, granularity=granularity, axis=axis)
    activation = threshold_activation(activation_bits, activation_scheme)
    weight()
    return QConfig(activation=activation, weight=weight)


def threshold_activation(bits: int = 8, scheme: Scheme = "asymmetric") -> Any:
    """The constructor of an activation's fake quantizer; equal arguments give the same one.

    Raises:
        FitError: bits or scheme that there are not.
    """
    return _activation(bits, scheme)


@functools.cache
def _activation(bits: int, scheme: Scheme) -> Any:
    made = ThresholdFakeQuantize.with_args(bits=bits, scheme=scheme, weights=False)
    made()
    return made


def threshold_qconfig_mapping(
    bits: int = 8,
    scheme: Scheme = "symmetric",
    granularity: str = "tensor",
    *,
    activation_bits: int = 8,
    activation_scheme: Scheme = "asymmetric",
) -> QConfigMapping:
    """Trained thresholds for a whole model, in place of ``get_default_qat_qconfig_mapping()``.

    Upstream's exceptions stay: operations whose output range is known (sigmoid, softmax ...), layer norms, whose
    weights stay float, and PReLU. Transposed convolutions stay float, for the int8 kernels of ``x86`` and ``onednn``
    compute them wrongly where the numbers of input and output channels differ.

    Args:
        bits, scheme, granularity, activation_bits, activation_scheme: see :func:`threshold_qconfig`.

    Returns:
        A mapping for ``prepare_qat_fx``, where all thresholds train, or ``prepare_fx``, where those of activations do.
    """
    from torch.ao.quantization import get_default_qat_qconfig_mapping

    ours = threshold_qconfig(
        bits, scheme, granularity, activation_bits=activation_bits, activation_scheme=activation_scheme
    )
    mapping = get_default_qat_qconfig_mapping("x86")
    theirs: Any = mapping.global_qconfig
    for kind, qconfig in list(mapping.object_type_qconfigs.items()):
        if "transpose" in getattr(kind, "__name__", str(kind)).lower():
            mapping.set_object_type(kind, None)
        elif qconfig is not None and qconfig.activation == theirs.activation:
            mapping.set_object_type(kind, QConfig(activation=ours.activation, weight=qconfig.weight))
    return mapping.set_global(ours)


def train_thresholds(prepared: nn.Module, teacher: nn.Module, data: Any, **options: Any) -> dict[str, Any]:
    """Train the thresholds of a prepared model to give the teacher's outputs on unlabelled data, in place.

    Nothing else is trained. After ``prepare_qat_fx`` the thresholds of weights and activations are there; after
    ``prepare_fx`` only those of activations, for it observes weights at conversion. Batch norms that are not folded
    use their running statistics. Observers are left disabled, so ``convert_fx`` takes exactly what was trained.

    Args:
        prepared: from ``prepare_qat_fx`` or ``prepare_fx`` with :func:`threshold_qconfig_mapping` or single
            :func:`threshold_qconfig` entries; left in evaluation mode.
        teacher: the float model; never changed.
        data: anything that :func:`lloydmax.compress` takes.
        options: of the recovery step ``train_thresholds``, and those of :func:`lloydmax.run_step`.

    Returns:
        What was measured: loss and agreement before and after, steps, thresholds, how many are saturated.

    Raises:
        RecoveryError: the model has no trained thresholds, wrong options. DataError: unusable data.
    """
    from lloydmax import run_step

    measured = run_step("train_thresholds", prepared, teacher, data, **options)
    prepared.eval()
    return measured


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
