"""Evaluation mode and gradients for the time of a block; where a model is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from lloydmax.runtime.seeding import seeded as seeded

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """All models in evaluation mode; the mode of every module is restored afterwards. With recurrent layers cuDNN is
    off meanwhile: in this mode it gives them no gradients; and those of embeddings are dense."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    sparse: list[Any] = [module for module, _ in modes if isinstance(module, _EMBEDDINGS) and module.sparse]
    recurrent = torch.cuda.is_available() and any(isinstance(module, nn.RNNBase) for module, _ in modes)
    try:
        for model in models:
            model.eval()
        for module in sparse:
            module.sparse = False
        with torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for module in sparse:
            module.sparse = True


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """:func:`evaluation_mode`, and no gradients."""
    with evaluation_mode(*models), torch.no_grad():
        yield


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU when it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
