"""Architectures without memory: models that were built within ``torch.device("meta")``, to be filled from a file."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lloydmax.errors import CheckpointError


def check(model: nn.Module) -> None:
    """Refuse a model with tensors on the meta device that no file can fill.

    Raises:
        CheckpointError: a buffer that is not persistent, or a plain attribute, is on the meta device.
    """
    for prefix, module in model.named_modules():
        fleeting = {name: module._buffers.get(name) for name in module._non_persistent_buffers_set}
        for name, value in {**fleeting, **vars(module)}.items():
            if isinstance(value, Tensor) and value.is_meta:
                raise CheckpointError(
                    f"{prefix + '.' if prefix else ''}{name} is on the meta device, but no parameter or persistent "
                    "buffer, so that no file keeps its values: build the model without torch.device('meta'), or give "
                    "it its values first"
                )


def give_memory(model: nn.Module, without: Collection[object] = ()) -> None:
    """Move what is on the meta device to the CPU, in place: uninitialized, tied tensors stay tied.

    Args:
        model: any; tensors on other devices stay.
        without: parameters that get a placeholder without memory of their own, as they will be replaced.
    """
    placeholders = {id(tensor) for tensor in without}
    filled: dict[int, Tensor] = {}
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and tensor.is_meta:
                key = id(tensor)
                if key not in filled:
                    filled[key] = _on_cpu(tensor, key in placeholders)
                setattr(module, name, filled[key])


def _on_cpu(tensor: Tensor, placeholder: bool) -> Tensor:
    if placeholder:
        memory = torch.empty((), dtype=tensor.dtype, device="cpu").expand(tensor.shape)
    else:
        memory = torch.empty_like(tensor, device="cpu", requires_grad=False)
    return nn.Parameter(memory, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else memory
