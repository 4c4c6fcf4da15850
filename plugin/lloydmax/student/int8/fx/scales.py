"""Scales and zero points that act when they are used, by ``__torch_function__``: no converter has to be recognized.

Torch's converters ask a fake quantizer for two tensors and quantize the float weight with them later, to the whole of
qint8. The scale of a weight with trained thresholds clips that weight just then, and the integers that come of it are
checked when a kernel packs them, with the arguments of that very kernel.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import torch
from torch import Tensor

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import spread
from lloydmax.errors import IntegrationError
from lloydmax.runtime import machine

_QUANTIZE = {
    torch.quantize_per_tensor: ("input", "scale", "zero_point", "dtype"),
    torch.quantize_per_channel: ("input", "scales", "zero_points", "axis", "dtype"),
}
"""What quantizes, and the names of its arguments."""
_COPY = (Tensor.detach, Tensor.clone, Tensor.to, Tensor.cpu, Tensor.cuda)


class _ActingTensor(Tensor):
    """A tensor with attributes; what is computed from it is an ordinary tensor."""

    @classmethod
    def of(cls, tensor: Tensor, **attributes: Any) -> Self:
        """That tensor, sharing its memory."""
        made = tensor.as_subclass(cls)
        vars(made).update(attributes)
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute with it as with an ordinary tensor."""
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class WeightScale(_ActingTensor):
    """The float32 scale of a weight with trained thresholds, whose copies in float32 are such scales, too.

    Quantizing with it clips to the thresholds first; the float weight stays as it is.

    Attributes:
        quant_min, quant_max: least and largest integer of the weight.
        granularity: ``"tensor"`` or ``"channel"``.
        axis: of the output channels.
    """

    quant_min: int
    quant_max: int
    granularity: str
    axis: int

    def clipped(self, weight: Tensor, zero_point: Tensor) -> Tensor:
        """The weight, quantized and decoded."""
        values, zero_point = weight.detach().float(), zero_point.int()
        if self.granularity == "tensor":
            found = torch.fake_quantize_per_tensor_affine(values, self, zero_point, self.quant_min, self.quant_max)
        else:
            found = torch.fake_quantize_per_channel_affine(
                values, self, zero_point, self.axis, self.quant_min, self.quant_max
            )
        return found.to(weight.dtype)

    def codebook(self, weight: Tensor, zero_point: Tensor) -> Codebook:
        """The levels as centroids, and which of them the values of the weight have."""
        shape = [1] * weight.dim()
        shape[self.axis] = -1
        integers = torch.round(weight.detach().float() * (1 / self).view(shape) + zero_point.view(shape))
        codes = (integers.clamp(self.quant_min, self.quant_max) - self.quant_min).to(torch.uint8)
        rows = torch.stack([self, zero_point - self.quant_min], 1)
        centroids = spread(rows, self.quant_max - self.quant_min + 1).to(weight.dtype)
        return Codebook(centroids[0] if self.granularity == "tensor" else centroids, codes, self.granularity, self.axis)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Clip what is quantized with it."""
        kwargs = kwargs or {}
        if func in _QUANTIZE:
            args, kwargs = [*args, *[kwargs[name] for name in _QUANTIZE[func][len(args) :]]], {}
            weight, scale, zero_point, *others = args
            if isinstance(scale, cls):
                clipped = scale.clipped(weight, zero_point)
                found = super().__torch_function__(func, types, (clipped, scale, zero_point, *others))
                return IntegerWeight.of(found, quant_max=scale.quant_max, shifted=bool(zero_point.any()))
        found = super().__torch_function__(func, types, args, kwargs)
        if func in _COPY and isinstance(args[0], cls) and found.dtype == torch.float32:
            return cls.of(found, **vars(args[0]))
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return memo.setdefault(id(self), self.clone())


torch.serialization.add_safe_globals([WeightScale])  # a layer without a kernel keeps it in its state


class IntegerWeight(_ActingTensor):
    """A quantized weight on its way to a kernel.

    Attributes:
        quant_max: the largest integer that it may have.
        shifted: whether any zero point is other than 0.
    """

    quant_max: int
    shifted: bool

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse the kernels that compute it wrongly.

        Raises:
            IntegrationError: the kernel that packs it would refuse it with less advice, or give wrong outputs.
        """
        kernel = getattr(func, "__name__", "").partition(".")[0]
        if kernel.endswith("_prepack") and args and isinstance(args[0], cls):
            groups = (kwargs or {}).get("groups", args[-1]) if kernel.startswith("conv") else 1
            args[0]._check(kernel.startswith("conv_transpose"), groups)
        return super().__torch_function__(func, types, args, kwargs)

    def _check(self, transposed: bool, groups: int) -> None:
        engine = torch.backends.quantized.engine
        if engine == "onednn" and self.shifted:
            raise IntegrationError(
                "the onednn kernels take symmetric weights only: use scheme='symmetric', or "
                "torch.backends.quantized.engine = 'x86'"
            )
        outputs, inputs = (
            (self.shape[1] * groups, self.shape[0]) if transposed else (self.shape[0], self.shape[1] * groups)
        )
        if engine in ("x86", "fbgemm") and 1 < groups == inputs and self.shifted:
            raise IntegrationError(
                f"the depthwise int8 kernels of {engine} compute asymmetric weights wrongly: use scheme='symmetric' "
                "for depthwise convolutions, or a recipe, in which such layers run from their levels in float"
            )
        if engine in ("x86", "onednn") and transposed and inputs != outputs:
            raise IntegrationError(
                f"the int8 kernels of {engine} compute a transposed convolution with {inputs} input and "
                f"{outputs} output channels wrongly: leave it float (qconfig None) or give it a codebook"
            )
        if self.quant_max == 127 and engine in ("x86", "fbgemm", "onednn") and machine.saturates():
            warnings.warn(
                f"{machine.OVERFLOWS}: use bits=7, or leave bits out, or, in a recipe's 'activations:', host: own",
                UserWarning,
                stacklevel=4,
            )


class LowBitZeroPoint(_ActingTensor):
    """The zero point of activations of fewer than 8 bits, which is for people and not for kernels.

    Attributes:
        bits: of the activations.
    """

    bits: int

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse to become 64 bits wide, as which eager mode's layer that quantizes keeps it.

        Raises:
            IntegrationError: as said.
        """
        if func is Tensor.long:
            raise too_few_bits(args[0].bits)
        return super().__torch_function__(func, types, args, kwargs)


def too_few_bits(bits: int) -> IntegrationError:
    """Why activations with fewer than 8 bits are not converted."""
    return IntegrationError(
        f"torch's int8 kernels clip activations to 8 bits, so a model with {bits}-bit ones would give "
        "other outputs once converted: use activation_bits=8, or keep the prepared model"
    )
