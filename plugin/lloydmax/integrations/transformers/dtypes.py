"""The dtypes of a model of transformers: those that a file has, and another that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lloydmax.format.inspection import inspect


def like_file(model: nn.Module, file: Path) -> None:
    """Give the parameters and buffers of a model without memory, in place, the dtypes that a file has for them.

    Raises:
        CheckpointError: the file cannot be read.
    """
    found = inspect(file)
    dtypes = {item.name: item.dtype for item in found.parameters} | {item.name: item.dtype for item in found.tensors}
    dtypes |= {name: dtypes[own] for name, own in found.tied.items() if own in dtypes}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        wanted = getattr(torch, dtypes.get(name, ""), None)
        if wanted is not None and tensor.is_meta and tensor.dtype != wanted and tensor.is_floating_point():
            tensor.data = tensor.data.to(wanted)


def cast(model: Any, dtype: torch.dtype) -> None:
    """All floats to another dtype, in place, but for modules that the architecture keeps in float32."""
    kept = (*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ()))
    if dtype == torch.bfloat16:
        kept = tuple(model._keep_in_fp32_modules_strict or ())
    left = [module for name, module in model.named_modules() if any(part in name.split(".") for part in kept)]
    before = {id(t): (t, t.data) for module in left for t in (*module.parameters(), *module.buffers())}
    nn.Module.to(model, dtype)
    for tensor, values in before.values():
        tensor.data = values
