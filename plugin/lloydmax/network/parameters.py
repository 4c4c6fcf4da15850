"""The parameters of a network: who owns them, how large they are."""

from __future__ import annotations

from torch import nn


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
