"""The way back: ordinary layers with ordinary parameters in place of codebooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from lloydmax.codebook.codebook import Codebook
from lloydmax.student.attachment import CodebookWeight, attach_all
from lloydmax.student.layers import LAYERS, CodebookLayer, CodebookTensor

_ORIGINAL: dict[type, type[nn.Module]] = {layer: original for original, layer in LAYERS.items()}


def holds_codebooks(module: nn.Module) -> bool:
    """Whether a codebook holds a parameter of the module itself, in training or finished."""
    if isinstance(module, CodebookLayer):
        return True
    held: Iterable[Any] = module.parametrizations.values() if parametrize.is_parametrized(module) else ()  # type: ignore[operator]
    return any(isinstance(chain[0], CodebookWeight) for chain in held)


def original_type(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before a codebook held a parameter of it."""
    return _ORIGINAL.get(type(module)) or parametrize.type_before_parametrizations(module)


def decompressed(model: nn.Module) -> nn.Module:
    """A model, in place, without codebooks: their weights decoded, parameters as before. What was tied is tied.

    Args:
        model: holds codebooks, in training or finished; no int8 model.

    Returns:
        ``model``, or its replacement when it is itself a single layer.
    """
    known: dict[int, nn.Parameter] = {}
    layers: dict[nn.Module, nn.Module] = {}
    with torch.no_grad():
        for module in [*model.modules()]:
            if isinstance(module, CodebookLayer):
                layers[module] = _layer(module, known)
            elif holds_codebooks(module):
                _bake(module, known)
    for parent in [*model.modules()]:
        for name, child in list(parent._modules.items()):
            if child in layers:
                parent._modules[name] = layers[child]
    return layers.get(model, model)


def parametrized(layer: CodebookLayer) -> nn.Module:
    """A layer of the original's class that the same centroids and codes hold, for those who look at classes; frozen."""
    codebooks = {leaf: tensor.codebook() for leaf, tensor in layer.codebooks.items()}  # type: ignore[operator]
    with torch.no_grad():
        made = _layer(layer, {})
    attach_all(made, codebooks)
    return made.requires_grad_(False)


def _layer(module: CodebookLayer, known: dict[int, nn.Parameter]) -> nn.Module:
    kind: Any = _ORIGINAL[type(module)]
    wanted = inspect.signature(kind.__init__).parameters
    given = {name: getattr(module, name) for name in module.attributes if name in wanted}
    given |= {"padding_mode": mode} if (mode := getattr(module, "padding_mode", None)) is not None else {}
    given |= {"bias": module.bias is not None} if "bias" in wanted else {}
    with torch.device("meta"):
        layer: nn.Module = kind(**given)
    for leaf, tensor in module.codebooks.items():
        assert isinstance(tensor, CodebookTensor)
        layer._parameters[leaf] = _decoded(tensor.codebook(), known)
    layer._parameters.update(module._parameters)
    layer.training = module.training
    return layer


def _bake(module: nn.Module, known: dict[int, nn.Parameter]) -> None:
    """What :meth:`lloydmax.student.attachment.attach_all` did to a module, undone."""
    chains: Any = module.parametrizations
    original = parametrize.type_before_parametrizations(module)
    for leaf, chain in list(chains.items()):
        if isinstance(chain[0], CodebookWeight):
            in_buffer = "original" in chain._buffers
            del chains[leaf]
            holder: Any = module._buffers if in_buffer else module._parameters
            holder[leaf] = _decoded(chain[0].holding(chain.original), known)
    if not len(chains):
        module.__class__ = original
        del module._modules["parametrizations"]


def _decoded(codebook: Codebook, known: dict[int, nn.Parameter]) -> nn.Parameter:
    """One parameter for all that share their codes."""
    key = id(codebook.codes)
    if key not in known:
        known[key] = nn.Parameter(codebook.dequantize().clone())
    return known[key]
