"""Batch norms merged: four vectors become two.

In evaluation mode a batch norm is ``scale * x + shift`` for each channel, with
``scale = weight / sqrt(running_var + eps)`` and ``shift = bias - running_mean * scale``. A merged one has these as its
weight, times ``sqrt(1 + eps)``, and bias, with ``running_mean = 0`` and ``running_var = 1``: a file has no need of the
constants. The statistics of the training data are gone, so that it can neither be trained on nor renormalized.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def mergeable(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms of PyTorch's own classes with plain, untied weight, bias and running statistics, by name."""
    uses = Counter(id(tensor) for module in model.modules() for tensor in _own(module))
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and type(module) in _KINDS
        if len(_four(module)) == 4 and all(uses[id(tensor)] == 1 for tensor in _four(module))
    }


@torch.no_grad()
def merge_norms(model: nn.Module) -> None:
    """Merge the :func:`mergeable` batch norms of a model in place, computed in float64.

    One whose merged values are not finite in its dtype stays as it is. Merging twice is merging once.
    """
    for norm in mergeable(model).values():
        weight, bias, mean, variance = _four(norm)
        if not bool(mean.any()) and bool((variance == 1).all()):
            continue
        scale = weight.double() / (variance.double() + norm.eps).sqrt()
        shift = (bias.double() - mean.double() * scale).to(bias.dtype)
        scale = (scale * math.sqrt(1 + norm.eps)).to(weight.dtype)
        if bool(torch.isfinite(scale).all() and torch.isfinite(shift).all()):
            weight.copy_(scale)
            bias.copy_(shift)
            mean.zero_()
            variance.fill_(1)


def _own(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None]


def _four(norm: _BatchNorm) -> list[Tensor]:
    """Those that it has of weight, bias, running mean and running variance."""
    parts = (
        norm._parameters.get("weight"),
        norm._parameters.get("bias"),
        norm._buffers.get("running_mean"),
        norm._buffers.get("running_var"),
    )
    return [part for part in parts if part is not None]
