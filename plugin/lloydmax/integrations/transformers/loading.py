"""A file into a model that transformers has built, without memory: the whole of it, or its trunk alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lloydmax.checkpoint import load
from lloydmax.format.inspection import inspect

_Stored = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype, in the model, of everything that a file holds, by name; tied names have their own."""


def fill(model: Any, file: Path) -> None:
    """Give a model, in place, the tensors and codebooks of a file; its parameters are on the meta device.

    What the file has in another dtype, the model gets. Where the file is of a model with a head and this is the trunk
    in it, the head is left out, as ``AutoModel.from_pretrained`` does it.

    Raises:
        CheckpointError: see :func:`lloydmax.load`; the file has no values for a head of this model.
    """
    model.tie_weights()
    stored, prefix = _stored(file), f"{model.base_model_prefix}."
    own = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    own -= {name for name, _ in model.named_non_persistent_buffers()}
    if own <= stored.keys() or not {prefix + name for name in own} <= stored.keys():
        _take_dtypes(model, stored)
        load(file, model)
        return
    _take_dtypes(model, {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)})
    whole = nn.Module()
    whole.add_module(model.base_model_prefix, model)
    for name in stored.keys() - {prefix + name for name in own}:
        _put(whole, name, *stored[name])
    load(file, whole)
    vars(model)["_lloydmax"] = {**vars(whole)["_lloydmax"], "recipe": None}  # its names are those of the whole


def _stored(file: Path) -> _Stored:
    found = inspect(file)
    stored = {item.name: (item.shape, getattr(torch, item.dtype)) for item in found.parameters}
    stored |= {item.name: (item.shape, getattr(torch, item.dtype)) for item in found.tensors}
    return stored | {name: stored[own] for name, own in found.tied.items()}


def _take_dtypes(model: nn.Module, stored: _Stored) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _, dtype = stored.get(name, (None, tensor.dtype))
        if tensor.is_meta and tensor.dtype != dtype and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _put(model: nn.Module, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """A place for a tensor that is left out."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in model._modules:
            model.add_module(part, nn.Module())
        inner = model._modules[part]
        assert inner is not None
        model = inner
    if leaf not in model._parameters and leaf not in model._buffers:
        model.register_buffer(leaf, torch.empty(shape, dtype=dtype, device="meta"))


def cast(model: Any, dtype: torch.dtype) -> None:
    """All floats to another dtype, in place, but for modules that the architecture keeps in float32."""
    kept = {*(model._keep_in_fp32_modules_strict or ())} if dtype != torch.float32 else set()
    kept |= {*(model._keep_in_fp32_modules or ())} if dtype == torch.float16 else set()
    left = [module for name, module in model.named_modules() if kept & {*name.split(".")}]
    before = {id(tensor): (tensor, tensor.data) for module in left for tensor in _floats(module)}
    nn.Module.to(model, dtype)
    for tensor, values in before.values():
        tensor.data = values


def _floats(module: nn.Module) -> list[torch.Tensor]:
    return [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
