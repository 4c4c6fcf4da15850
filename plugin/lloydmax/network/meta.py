"""Architectures without memory: models that were built within ``torch.device("meta")``, to be filled from a file."""

from __future__ import annotations

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


def give_memory(model: nn.Module) -> None:
    """Move what is on the meta device to the CPU, in place: uninitialized, so that pages are taken when written.

    Tied tensors stay tied (``Module.to_empty`` would part them), tensors on other devices stay where they are.
    """
    moved: dict[int, Tensor] = {}
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and tensor.is_meta:
                setattr(module, name, moved.setdefault(id(tensor), _on_cpu(tensor)))


def _on_cpu(tensor: Tensor) -> Tensor:
    memory = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")
    return nn.Parameter(memory, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else memory
