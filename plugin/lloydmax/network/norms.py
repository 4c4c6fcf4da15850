"""Which modules are normalization layers."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


def is_norm(module: nn.Module) -> bool:
    """Whether it is a normalization layer (told by class, or by a class name that says so)."""
    return isinstance(module, NORMS) or "Norm" in parametrize.type_before_parametrizations(module).__name__
