"""Batch norm folded into the layer before it.

In evaluation mode a batch norm is a fixed scale and shift of each channel, so that
``W' = gamma W / sqrt(var + eps)`` and ``b' = beta + (b - mean) gamma / sqrt(var + eps)`` do the same (Jacob et al.
2018, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lloydmax.errors import CheckpointError
from lloydmax.network.channels import Channels
from lloydmax.network.graph import Network


class Folded(nn.Identity):
    """Stands where a batch norm was.

    Attributes:
        into: name of the layer that took it in.
    """

    def __init__(self, into: str) -> None:
        super().__init__()
        self.into = into

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"into={self.into!r}"


def fold_batch_norms(model: nn.Module, untie: bool = False) -> list[tuple[str, str]]:
    """Fold, in place, every batch norm that is the only consumer of a convolution or linear layer.

    The layer gets a bias if it had none; a :class:`Folded` takes the batch norm's place. Computed in float64. Layers
    that are tied, parametrized or called twice, batch norms without running statistics, and pairs whose folded
    values the dtype cannot hold stay as they are. In evaluation mode the outputs are the same up to rounding.

    Args:
        model: changed in place.
        untie: fold into tied layers, too: each gets a weight and a bias of its own.

    Returns:
        ``(layer, batch norm)`` names, in forward order; empty where there is nothing to fold.

    Raises:
        RecoveryError: the model cannot be traced.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return []
    done = []
    for layer_name, norm_name in Network(model, tied=untie).pairs:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        assert isinstance(norm, _BatchNorm)
        if _fold(layer, norm, untie):
            _replace(model, norm, Folded(layer_name))
            done.append((layer_name, norm_name))
    return done


def folded(model: nn.Module) -> list[tuple[str, str]]:
    """``(layer, batch norm)`` names of what was folded, in the order of the modules."""
    return [(module.into, name) for name, module in model.named_modules() if isinstance(module, Folded)]


def fold_structure(model: nn.Module, pairs: Sequence[tuple[str, str]], values: bool = False) -> None:
    """Give a fresh model, in place, the parameters and modules of a folded one; their values come from elsewhere.

    Args:
        model: the original architecture, or one that is already folded.
        pairs: from :func:`folded`.
        values: whether the model's own values are folded.

    Raises:
        CheckpointError: a name is missing in the model or names another kind of module; the model is unchanged then.
    """
    found: list[tuple[nn.Module, nn.Module, str]] = []
    for layer_name, norm_name in pairs:
        layer, norm = _module(model, layer_name), _module(model, norm_name)
        if not isinstance(getattr(layer, "weight", None), Tensor) or not hasattr(layer, "bias"):
            raise CheckpointError(f"{layer_name} is a {type(layer).__name__}: it cannot have taken in {norm_name}")
        if not isinstance(norm, (_BatchNorm, Folded)):
            raise CheckpointError(
                f"{norm_name} was a batch norm folded into {layer_name}, but is a {type(norm).__name__} in this model"
            )
        found.append((layer, norm, layer_name))
    for layer, norm, layer_name in found:
        if isinstance(norm, _BatchNorm):
            if values:
                _fold(layer, norm, untie=False)
            _ensure_bias(layer, norm.num_features)
            _replace(model, norm, Folded(layer_name))


@torch.no_grad()
def _fold(layer: Any, norm: _BatchNorm, untie: bool) -> bool:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    weight = Channels(layer).scaled(layer.weight, outputs=scale)
    bias = -norm.running_mean.double() if layer.bias is None else layer.bias.double() - norm.running_mean.double()
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight, bias = weight.to(layer.weight.dtype), bias.to(layer.weight.dtype)
    if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        return False
    if untie:
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(layer, name, nn.Parameter(parameter.clone(), requires_grad=parameter.requires_grad))
    layer.weight.copy_(weight)
    _ensure_bias(layer, len(bias))
    layer.bias.copy_(bias)
    return True


def _ensure_bias(layer: Any, channels: int) -> None:
    if layer.bias is None:
        weight = layer.weight
        layer.bias = nn.Parameter(weight.detach().new_zeros(channels), requires_grad=weight.requires_grad)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Everywhere: a module can have several parents."""
    new.train(old.training)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise CheckpointError(
            f"the file was made from a model with a module {name!r}, which {type(model).__name__} does not have"
        ) from None
