"""The architecture of a transformers folder: a model without memory, to be filled from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lloydmax.errors import IntegrationError
from lloydmax.integrations.transformers.folder import read_config
from lloydmax.integrations.transformers.host import AutoConfig, PreTrainedModel, transformers
from lloydmax.runtime.files import shown


def architecture(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model that a folder describes, on the meta device, in evaluation mode, weights tied. Buffers that no file
    keeps have their values; all else is to be filled, as by :func:`lloydmax.load`, before it runs.

    Args:
        folder: with a ``config.json``.
        dtype: of the floats; ``None``: the one that the folder names, else float32.

    Raises:
        IntegrationError: no config, or a class that transformers does not have.
    """
    named = read_config(folder).get("architectures") or []
    kind = getattr(transformers, named[0], None) if named else None
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        what = f"the architecture {named[0]!r}, which is not one of transformers' own" if named else "no architecture"
        raise IntegrationError(f"{shown(folder)}: config.json names {what}: load the model, and compress it in memory")
    config = AutoConfig.from_pretrained(folder)
    wanted: Any = dtype or getattr(config, "dtype", None) or torch.float32
    with torch.device("meta"):
        model = kind._from_config(config, dtype=wanted)
    _fill_fleeting(model)
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def _fill_fleeting(model: PreTrainedModel) -> None:
    """Give the buffers that are not persistent the values that their modules make."""
    for module in model.modules():
        names = [name for name in module._non_persistent_buffers_set if _is_meta(module._buffers.get(name))]
        for name in names:
            module._buffers[name] = torch.zeros_like(module._buffers[name], device="cpu")
        if names:
            owner = next(one for one in _models_of(model, module))
            owner._init_weights(module)


def _is_meta(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and tensor.is_meta


def _models_of(model: PreTrainedModel, module: nn.Module) -> list[PreTrainedModel]:
    """The models that hold a module, the innermost first: each knows how to fill its own."""
    found = [one for one in model.modules() if isinstance(one, PreTrainedModel) and any(m is module for m in one.modules())]
    return found[::-1]
