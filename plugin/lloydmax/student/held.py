"""What a model holds, compressed or not.

A tensor is known by the name that it has in the original, uncompressed architecture, whatever holds it now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lloydmax.codebook.codebook import Codebook
from lloydmax.hooks import registry
from lloydmax.student.attachment import CodebookWeight
from lloydmax.student.int8.model import Int8Model
from lloydmax.student.layers import CodebookLayer, CodebookTensor, CodesHolder


def contents(model: nn.Module) -> tuple[dict[str, Tensor | Codebook], dict[str, str]]:
    """Everything that a file keeps of a model.

    Returns:
        Each parameter and persistent buffer under its first name (not copied), compressed ones as
        :class:`~lloydmax.Codebook`; and the further names of tied ones -> their first name.
    """
    values: dict[str, Tensor | Codebook] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, value in held(model):
        key = id(value.codes if isinstance(value, Codebook) else value)
        known = first.setdefault(key, name)
        if known != name and _same(values[known], value):
            tied[name] = known
        else:
            values[name] = value
    return values, tied


def held(model: nn.Module) -> Iterator[tuple[str, Tensor | Codebook]]:
    """Every parameter and persistent buffer under each of its names (not copied), compressed ones as codebooks; last
    the buffers that are also parameters."""
    late = list[tuple[str, Tensor | Codebook]]()
    for name, value, borrowed in _held(model):
        if borrowed:
            late.append((name, value))
        else:
            yield name, value
    yield from late


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor | Codebook, bool]]:
    if isinstance(model, Int8Model):
        yield from ((name, value, False) for name, value in model.held())
        return
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, CodesHolder) or _holds_codes(module):
            continue
        dot = f"{prefix}." if prefix else ""
        if "parametrizations" in module._modules and parametrize.is_parametrized(module):
            for leaf, held in module.parametrizations.items():
                if _holds_codes(held):
                    yield dot + leaf, held[0].holding(held.original), "original" in held._buffers
        if isinstance(module, CodebookLayer):
            for leaf, tensor in module.codebooks.items():
                assert isinstance(tensor, CodebookTensor)
                yield dot + leaf, tensor.codebook(), False
        for leaf, plain in own_tensors(module).items():
            yield dot + leaf, plain, leaf in module._buffers and isinstance(plain, nn.Parameter)


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of the module itself."""
    fleeting = module._non_persistent_buffers_set
    buffers = {name: buffer for name, buffer in module._buffers.items() if name not in fleeting}
    return {name: tensor for name, tensor in {**module._parameters, **buffers}.items() if tensor is not None}


def _holds_codes(module: nn.Module) -> bool:
    return isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], CodebookWeight)


def _same(first: Tensor | Codebook, second: Tensor | Codebook) -> bool:
    if isinstance(first, Codebook) and isinstance(second, Codebook):
        return first.layout == second.layout and torch.equal(first.centroids, second.centroids)
    return first is second


def remember(model: nn.Module, recipe: dict[str, Any] | None, storage: dict[str, str]) -> None:
    """Attach recipe and storage to a finished model as plain data, which copies and pickles keep; plugins are told.

    A model whose ``__setattr__`` refuses names that it does not know takes them, too.
    """
    vars(model)["_lloydmax"] = {"recipe": recipe, "storage": storage}
    registry.manager().hook.lloydmax_finished(model=model)
