"""The parameters of a network: who owns them, how large they are."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.codebook.layout import FLOAT_DTYPES
from lloydmax.runtime.dense import finite


class WeightBuffer(nn.Parameter):
    """A buffer of weights that is a parameter for now."""


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


_OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes in which torch keeps what every module has."""
_DEPTH = 4
"""Lists, dicts and objects within each other that are looked into."""
Owner = tuple[str, nn.Module, str]
"""Full name of a parameter, the module that has it, its name within the module."""


def owners(model: nn.Module) -> dict[int, list[Owner]]:
    """Every parameter by identity, with all its owners; tied ones have several. Those that have it as a buffer come
    last."""
    found: dict[int, list[Owner]] = {}
    for prefix, module, held in _holders(model):
        for name, parameter in held.items():
            if isinstance(parameter, nn.Parameter):
                full = f"{prefix}.{name}" if prefix else name
                found.setdefault(id(parameter), []).append((full, module, name))
    return found


def _holders(model: nn.Module) -> Iterator[tuple[str, nn.Module, Mapping[str, Tensor | None]]]:
    """What modules have as parameters, then what they have as buffers."""
    modules = [*model.named_modules()]
    yield from ((prefix, module, module._parameters) for prefix, module in modules)
    yield from ((prefix, module, module._buffers) for prefix, module in modules)


def held_outside(model: nn.Module) -> dict[int, str]:
    """The parameters and buffers that are held by attributes beside those that register them, by identity: the
    attribute, as ``"encoder.weights[0]"``. The lists from which recurrent layers run are not meant."""
    registered = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, str] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in _OF_MODULES and not (name == "_flat_weights" and isinstance(module, nn.RNNBase)):
                for place, tensor in _tensors(value, f"{prefix}.{name}".lstrip("."), seen):
                    if id(tensor) in registered:
                        found.setdefault(id(tensor), place)
    return found


def _tensors(value: Any, place: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The tensors in lists, dicts and plain objects, and where they are; what was seen is not looked into again."""
    if isinstance(value, Tensor):
        yield place, value
    if isinstance(value, (Tensor, nn.Module, type)) or depth > _DEPTH or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, functools.partial):
        value = [*value.args, *value.keywords.values()]
    if isinstance(value, Mapping):
        held = [(f"{place}[{key!r}]", one) for key, one in value.items()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        held = [(f"{place}[{number}]", one) for number, one in enumerate(value)]
    else:
        held = [(f"{place}.{key}", one) for key, one in getattr(value, "__dict__", {}).items()]
    for inner, one in held:
        yield from _tensors(one, inner, seen, depth + 1)


def padding_rows(owners: Iterable[Owner]) -> dict[str, int]:
    """The rows for padding, by the name of the parameter in the embedding."""
    embeddings = {
        name: module
        for name, module, leaf in owners
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and leaf == "weight"
    }
    return {name: module.padding_idx for name, module in embeddings.items() if module.padding_idx is not None}


def unfit(model: nn.Module) -> dict[int, str]:
    """The parameters that cannot have a codebook as they are, by identity: those with infinities or NaN, empty ones,
    and those of other dtypes than float32, float16 and bfloat16; what is wrong with each."""
    found = {}
    for parameter in model.parameters():
        if not nn.parameter.is_lazy(parameter) and (why := _unfit(parameter.detach())):
            found[id(parameter)] = why
    return found


def _unfit(values: Tensor) -> str | None:
    if values.numel() == 0:
        return f"it is empty, of shape {tuple(values.shape)}"
    if values.dtype not in FLOAT_DTYPES:
        return f"it is {str(values.dtype).removeprefix('torch.')}, not float32, float16 or bfloat16"
    if type(values) is not Tensor or values.layout != torch.strided or values.is_meta:  # another toolkit's
        return None
    if finite(values):
        return None
    return f"{int((~torch.isfinite(values)).sum()):,} of its {values.numel():,} values are NaN or infinite"


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

    A buffer that is also a parameter stays what it is.

    Returns:
        Whether there were any.
    """
    made = {
        id(buffer): WeightBuffer(buffer, requires_grad=False)
        for name, buffer in model.named_buffers(remove_duplicate=False)
        if name in names and not isinstance(buffer, nn.Parameter)
    }
    for module in model.modules() if made else ():
        for leaf in [leaf for leaf, buffer in module._buffers.items() if id(buffer) in made]:
            module._parameters[leaf] = made[id(module._buffers.pop(leaf))]
    return bool(made)


def demote(model: nn.Module) -> None:
    """Turn what :func:`promote` made parameters, in place and wherever they are tied, into buffers again."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for leaf in [leaf for leaf, held in module._parameters.items() if isinstance(held, WeightBuffer)]:
            held = module._parameters.pop(leaf)
            assert held is not None
            module._buffers[leaf] = made.setdefault(id(held), held.detach())
