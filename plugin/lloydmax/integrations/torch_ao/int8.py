"""Converted int8 layers: the codebook that their weight stands for, and whether it is the planned one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.plan.plan import PlannedParameter
from lloydmax.student.int8.fx.host import nnq

_TRANSPOSED = (nnq.ConvTranspose1d, nnq.ConvTranspose2d, nnq.ConvTranspose3d)


def quantized_weight(module: nn.Module | None) -> Tensor | None:
    """The quantized weight of a converted convolution or linear layer; ``None`` for any other module."""
    if not isinstance(module, (nnq.Linear, nnq.Conv1d, nnq.Conv2d, nnq.Conv3d, *_TRANSPOSED)):
        return None
    weight: Tensor = module.weight()
    return weight


def quantized_codebook(module: nn.Module) -> Codebook | None:
    """The codebook that the weight of a converted int8 layer stands for.

    Args:
        module: from ``convert_fx`` or ``convert``.

    Returns:
        Float32 centroids ``scale * (i - zero_point)``, ascending, and uint8 codes; the grid is the smallest of 2 to
        8 bits, symmetric where it can be, that has every integer of the weight. ``None`` where the module is no
        int8 convolution or linear layer.
    """
    weight = quantized_weight(module)
    if weight is None:
        return None
    integers = weight.int_repr().int()
    scale, zero, axis = _parameters(weight)
    low, high = _smallest_grid(integers, symmetric=not bool(zero.any()))
    levels = torch.arange(low, high + 1, dtype=torch.float32, device=integers.device)
    centroids = (levels - zero[:, None]) * scale[:, None]
    codes = (integers - low).to(torch.uint8)
    if axis is None:
        return Codebook(centroids[0], codes)
    return Codebook(centroids, codes, "channel", axis)


def mismatch(module: nn.Module | None, p: PlannedParameter) -> str | None:
    """What is wrong with the layer of a uniformly quantized parameter, or ``None``."""
    weight = quantized_weight(module)
    if weight is None:
        return f"{p.name} is not int8: its layer is {type(module).__name__}"
    if tuple(weight.shape) != p.shape:
        return f"{p.name} has shape {tuple(weight.shape)}, planned {p.shape}"
    options: Any = p.options
    found = "tensor" if _parameters(weight)[2] is None else "channel"
    if found != p.granularity:
        return f"{p.name} has one scale per {found}, planned per {p.granularity}"
    integers, (low, high) = weight.int_repr(), limits(options.bits, options.scheme)
    if int(integers.min()) < low or int(integers.max()) > high:
        found = f"{int(integers.min())} to {int(integers.max())}"
        return f"{p.name} has integers from {found}, planned {options.bits} bits, {options.scheme}: {low} to {high}"
    if options.scheme == "symmetric" and bool(_parameters(weight)[1].any()):
        return f"{p.name} has a zero point, planned symmetric"
    return None


def limits(bits: int, scheme: str) -> tuple[int, int]:
    """Least and largest integer of a weight."""
    half = 1 << (bits - 1)
    return -half + (scheme == "symmetric"), half - 1


def _parameters(weight: Tensor) -> tuple[Tensor, Tensor, int | None]:
    """Scales and zero points, float32 ``(thresholds,)``, and the axis of the channels, if they have their own."""
    if weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return torch.tensor([weight.q_scale()]), torch.tensor([float(weight.q_zero_point())]), None
    scale, zero = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
    return scale.float(), zero.float(), weight.q_per_channel_axis()


def _smallest_grid(integers: Tensor, symmetric: bool) -> tuple[int, int]:
    least, most = int(integers.min()), int(integers.max())
    for bits in range(2, 9):
        for scheme in ("symmetric", "asymmetric")[not symmetric :]:
            low, high = limits(bits, scheme)
            if low <= least and most <= high:
                return low, high
    return -128, 127
