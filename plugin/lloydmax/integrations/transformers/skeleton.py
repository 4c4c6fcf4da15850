"""The architecture of a transformers folder: a model without memory, to be filled from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.errors import IntegrationError
from lloydmax.integrations.transformers.folder import read_config
from lloydmax.integrations.transformers.host import AutoConfig, PreTrainedModel, transformers
from lloydmax.runtime.files import shown


def skeleton(folder: Path) -> Any:
    """The model that a folder describes, in evaluation mode, tied, without memory: only buffers that no file keeps have
    values. All else is to be filled before it runs.

    Raises:
        IntegrationError: no config, or the class is not one of transformers' own.
    """
    named = read_config(folder).get("architectures") or []
    kind = getattr(transformers, str(named[0]), None) if named else None
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        what = f"{str(named[0])[:80]!r}, which is not one of transformers' own" if named else "none"
        raise IntegrationError(
            f"{shown(folder)}: of the architectures in config.json the first is {what}: load the model yourself and "
            "compress it in memory"
        )
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = kind._from_config(config, dtype=getattr(config, "dtype", None) or torch.float32)
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
