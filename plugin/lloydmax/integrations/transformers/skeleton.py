"""The architecture of a transformers folder: a model without memory, to be filled from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.integrations.transformers.architectures import class_of
from lloydmax.integrations.transformers.folder import read_config
from lloydmax.integrations.transformers.host import AutoConfig, PreTrainedModel


def skeleton(folder: Path) -> Any:
    """The model that a folder describes, in evaluation mode, tied, without memory: only buffers that no file keeps have
    values. All else is to be filled before it runs.

    Raises:
        IntegrationError: no config, or transformers has no such class.
    """
    kind, config = class_of(read_config(folder), folder), AutoConfig.from_pretrained(folder)
    dtype = getattr(config, "dtype", None) or torch.float32
    with torch.device("meta"):
        model = (
            kind._from_config(config, dtype=dtype) if issubclass(kind, PreTrainedModel) else kind.from_config(config)
        )
    _fill(model, model)
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def _fill(module: nn.Module, owner: PreTrainedModel) -> None:
    """Give buffers that are not persistent the values that the model makes, of which this module is a part."""
    for child in module.children():
        _fill(child, child if isinstance(child, PreTrainedModel) else owner)
    empty = [name for name in module._non_persistent_buffers_set if _is_meta(module._buffers.get(name))]
    for name in empty:
        module._buffers[name] = torch.zeros_like(module.get_buffer(name), device="cpu")
    if empty:
        owner._init_weights(module)


def _is_meta(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.is_meta
