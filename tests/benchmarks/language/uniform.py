"""Rounding to grids with a scale and a zero for each group, and what was published to round better: GPTQ and AWQ.

Our own implementations, so that every method runs on every model here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Rounded = tuple[Tensor, float]
"""A matrix ``(outputs, inputs)``, and the bits a weight that it takes."""
_DAMPING = 0.01
_SHRINKS = [1 - step / 20 for step in range(11)]
_POWERS = [step / 20 for step in range(20)]


def size(bits: int, group: int) -> float:
    """Bits a weight with a scale of 16 bits and a zero of ``bits``."""
    return bits + (16 + bits) / group


def grids(rows: Tensor, bits: int, group: int, shrink: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Scale and zero of every weight's group, asymmetric, from the smallest to the largest value; like ``rows``."""
    parts = rows.reshape(len(rows), -1, group)
    low, high = (parts.amin(2).clamp(max=0) * shrink, parts.amax(2).clamp(min=0) * shrink)
    scale = ((high - low) / (2**bits - 1)).clamp(min=1e-8).half().float()
    zero = (-low / scale).round().clamp(0, 2**bits - 1)
    return scale.repeat_interleave(group, 1), zero.repeat_interleave(group, 1)


def on_grid(rows: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The nearest values."""
    return ((rows / scale + zero).round().clamp(0, 2**bits - 1) - zero) * scale


def nearest(rows: Tensor, bits: int, group: int) -> Rounded:
    """RTN."""
    return on_grid(rows, *grids(rows, bits, group), bits), size(bits, group)


def gptq(rows: Tensor, moments: Tensor, bits: int, group: int) -> Rounded:
    """Frantar et al. (2023), with act-order and static groups; damping 0.01."""
    scale, zero = grids(rows, bits, group)
    hessian = moments.clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    hessian.diagonal().add_(_DAMPING * hessian.diagonal().mean())
    order = hessian.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    left, scale, zero = rows[:, order].clone(), scale[:, order], zero[:, order]
    found = torch.empty_like(left)
    for at in range(left.shape[1]):
        found[:, at] = on_grid(left[:, at], scale[:, at], zero[:, at], bits)
        error = (left[:, at] - found[:, at]) / factor[at, at]
        left[:, at + 1 :] -= error[:, None] * factor[at, at + 1 :]
    return found[:, order.argsort()], size(bits, group)


def awq(rows: Tensor, moments: Tensor, bits: int, group: int) -> Rounded:
    """Lin et al. (2024): inputs scaled by a power of their size, then ranges clipped, each by the error of the outputs;
    the scales cost nothing, as if all could be folded."""
    large = moments.diagonal().float().sqrt().clamp(min=1e-8)
    best = min(
        ((large / large.mean()).pow(power).clamp(min=1e-4) for power in _POWERS),
        key=lambda scales: _error(
            rows, on_grid(rows * scales, *grids(rows * scales, bits, group), bits) / scales, moments
        ),
    )
    scaled = rows * best
    own = (moments.float() / best[:, None] / best).diagonal()
    parts, least, chosen = scaled.reshape(len(rows), -1, group), None, None
    for shrink in _SHRINKS:
        found = on_grid(scaled, *grids(scaled, bits, group, shrink), bits)
        errors = ((found - scaled).square() * own).reshape(parts.shape).sum(2)
        if least is None or chosen is None:
            least, chosen = errors, torch.full_like(errors, shrink)
        chosen = torch.where(errors < least, torch.full_like(chosen, shrink), chosen)
        least = torch.minimum(errors, least)
    return on_grid(scaled, *grids(scaled, bits, group, chosen), bits) / best, size(bits, group)


def _error(rows: Tensor, found: Tensor, moments: Tensor) -> float:
    off = rows - found
    return float(((off @ moments.float()) * off).sum())


Method = Callable[[Tensor, Tensor, int, int], Rounded]
