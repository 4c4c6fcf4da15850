"""A file into a model that transformers has built, without memory: the whole of it, or its trunk alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lloydmax.checkpoint import load
from lloydmax.format.inspection import inspect
from lloydmax.integrations.made import architecture
from lloydmax.network.baking import bake, computed, copied
from lloydmax.runtime.files import shown
from lloydmax.student.held import contents

_NAMED = 3
"""Tensors that a warning names."""
_Stored = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype, in the model, of everything that a file holds, by name; tied names have their own."""


def fill(model: Any, file: Path) -> None:
    """Give a model, in place, the tensors and codebooks of a file; its parameters are on the meta device.

    What the file has in another dtype, the model gets. Where this is a part of the model in the file (its trunk, its
    encoder), the rest is left out with a warning, as transformers does it.

    Raises:
        CheckpointError: see :func:`lloydmax.load`; the file has no values for a head of this model.
    """
    model.tie_weights()
    stored = _stored(file)
    own = _names(model)
    prefixes = ("", f"{model.base_model_prefix}.")
    prefix = next((each for each in prefixes if {each + name for name in own} <= stored.keys()), "")
    _take_dtypes(model, stored, prefix)
    rest = sorted(stored.keys() - {prefix + name for name in own})
    whole: nn.Module = model
    if prefix:
        whole = nn.Module()
        whole.add_module(model.base_model_prefix, model)
    with _places(whole, {name: stored[name] for name in rest}):
        load(file, whole)
    if rest:
        vars(model)["_lloydmax"] = {**vars(whole)["_lloydmax"], "recipe": None}  # its names are those of the whole
        more = f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else ""
        warnings.warn(
            f"{shown(file)}: {architecture(type(model)).__name__} has no {', '.join(rest[:_NAMED])}{more}: left out",
            stacklevel=2,
        )


@contextmanager
def _places(model: nn.Module, rest: _Stored) -> Iterator[None]:
    """Modules for what a model has no place for, as long as it is filled; none where it has the module, but not what
    is to be in it."""
    added: list[tuple[nn.Module, str]] = []
    made: set[nn.Module] = set()
    try:
        for name, (shape, dtype) in rest.items():
            *path, leaf = name.split(".")
            place = model
            for part in path:
                inner = place._modules.get(part)
                if inner is None:
                    inner = nn.Module()
                    place.add_module(part, inner)
                    if place not in made:
                        added.append((place, part))
                    made.add(inner)
                place = inner
            if place in made:
                place.register_buffer(leaf, torch.empty(shape, dtype=dtype, device="meta"))
        yield
    finally:
        for place, part in added:
            del place._modules[part]


def _names(model: nn.Module) -> set[str]:
    """Of all that a file of this model holds."""
    if computed(model):  # what is computed is in files as it is
        model = copied(model, share=True).eval()
        bake(model)
    values, tied = contents(model)
    return {*values, *tied}


def _stored(file: Path) -> _Stored:
    found = inspect(file)
    stored = {item.name: (item.shape, getattr(torch, item.dtype)) for item in found.parameters}
    stored |= {item.name: (item.shape, getattr(torch, item.dtype)) for item in found.tensors}
    return stored | {name: stored[own] for name, own in found.tied.items()}


def _take_dtypes(model: nn.Module, stored: _Stored, prefix: str) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _, dtype = stored.get(prefix + name, (None, tensor.dtype))
        if tensor.is_meta and tensor.dtype != dtype and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


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
