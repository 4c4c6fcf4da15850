"""The parameters of a network: who owns them, how large they are."""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import Tensor, nn


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def owners(model: nn.Module) -> dict[int, list[tuple[str, nn.Module, str]]]:
    """Every parameter by identity: ``[(full name, module, name within the module)]``; tied ones have several."""
    found: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{prefix}.{name}" if prefix else name
                found.setdefault(id(parameter), []).append((full, module, name))
    return found


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of this full name, detached.

    Raises:
        AttributeError: there is none.
    """
    prefix, _, leaf = name.rpartition(".")
    found: Tensor = getattr(model.get_submodule(prefix), leaf)
    return found.detach()


def sharing(model: nn.Module) -> nn.Module:
    """A copy of the modules that has the model's own parameters and buffers."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def promote(model: nn.Module, names: Collection[str]) -> bool:
    """Turn the buffers among these names, in place and wherever they are tied, into parameters without gradients.

    Returns:
        Whether there were any.
    """
    made = {
        id(buffer): nn.Parameter(buffer, requires_grad=False)
        for name, buffer in model.named_buffers(remove_duplicate=False)
        if name in names
    }
    for module in model.modules() if made else ():
        for leaf in [leaf for leaf, buffer in module._buffers.items() if id(buffer) in made]:
            module._parameters[leaf] = made[id(module._buffers.pop(leaf))]
    return bool(made)
