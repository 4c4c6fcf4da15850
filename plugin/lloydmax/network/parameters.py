"""The parameters of a network: who owns them, how large they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


_READ = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Owner = tuple[str, nn.Module, str]
"""Full name of a parameter, the module that has it, its name within the module."""


def owners(model: nn.Module) -> dict[int, list[Owner]]:
    """Every parameter by identity, with all its owners; tied ones have several."""
    found: dict[int, list[Owner]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{prefix}.{name}" if prefix else name
                found.setdefault(id(parameter), []).append((full, module, name))
    return found


def padding_rows(owners: Iterable[Owner]) -> dict[str, int]:
    """The rows for padding, by the name of the parameter in the embedding."""
    embeddings = {
        name: module
        for name, module, leaf in owners
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and leaf == "weight"
    }
    return {name: module.padding_idx for name, module in embeddings.items() if module.padding_idx is not None}


def not_finite(model: nn.Module) -> dict[int, str]:
    """The parameters with infinities or NaN, by identity: what is wrong with each."""
    found = {}
    for parameter in model.parameters():
        if nn.parameter.is_lazy(parameter) or parameter.is_meta or parameter.dtype not in _READ:
            continue
        values = parameter.detach()
        if type(values) is not torch.Tensor or values.layout != torch.strided:  # another toolkit's
            continue
        if bool(torch.isfinite(values.sum(dtype=torch.float64))):
            continue
        if broken := int((~torch.isfinite(values)).sum()):
            found[id(parameter)] = f"{broken:,} of its {values.numel():,} values are NaN or infinite"
    return found


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of this full name, detached.

    Raises:
        AttributeError: there is none.
    """
    prefix, _, leaf = name.rpartition(".")
    found: Tensor = getattr(model.get_submodule(prefix), leaf)
    return found.detach()


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
