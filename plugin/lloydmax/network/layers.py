"""The layers of a network: modules that own parameters, in forward order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from lloydmax.runtime.modes import evaluating

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class Layer:
    """A module of the model: its full name, itself, and the names of its class and base classes."""

    name: str
    module: nn.Module
    types: tuple[str, ...]

    @property
    def numbered(self) -> bool:
        """Whether ranges count it: a convolution or linear layer, subclasses included."""
        return isinstance(self.module, (_ConvNd, nn.Linear))

    @property
    def norm(self) -> bool:
        """Whether it is a normalization layer (told by class, or by a class name that says so)."""
        return isinstance(self.module, NORMS) or "Norm" in self.types[0]


def layers_of(model: nn.Module, example_inputs: Any = None) -> list[Layer]:
    """All modules that own parameters, in forward order (registration order without ``example_inputs``).

    Args:
        model: the model; a forward pass in evaluation mode is run when ``example_inputs`` are given.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
    """
    found = [Layer(name, module, _type_names(module)) for name, module in model.named_modules() if module._parameters]
    if example_inputs is None:
        return found
    order: dict[int, int] = {}

    def note(module: nn.Module, _: Any) -> None:
        order.setdefault(id(module), len(order))

    hooks = [layer.module.register_forward_pre_hook(note) for layer in found]
    try:
        with evaluating(model):
            if isinstance(example_inputs, dict):
                model(**example_inputs)
            else:
                model(*(example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)))
    finally:
        for hook in hooks:
            hook.remove()
    return sorted(found, key=lambda layer: order.get(id(layer.module), len(order)))


def _type_names(module: nn.Module) -> tuple[str, ...]:
    own = parametrize.type_before_parametrizations(module)
    names = tuple(base.__name__ for base in own.__mro__ if issubclass(base, nn.Module) and base is not nn.Module)
    return names or ("Module",)
