"""The modes of a thread that a computation runs in: evaluation, gradients, defaults; where a model is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from lloydmax.errors import ModelError
from lloydmax.runtime.dtypes import Float32Defaults
from lloydmax.runtime.seeding import seeded as seeded
from lloydmax.runtime.text import printable

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_RECURRENT = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)
_elsewhere: ContextVar[bool] = ContextVar("whether the caller's default device is another than the CPU", default=False)


@contextmanager
def own_modes() -> Iterator[None]:
    """The modes that all work is done in, whatever mode the caller's thread is in; a context manager and a decorator.

    Gradients are on, inference mode and autocast are off, tensors made without a device or dtype are float32 on the
    CPU. Nothing that another thread can see is changed.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in {"cpu", getattr(torch.accelerator.current_accelerator(), "type", "cpu")}:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_outermost_autocast())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
            stack.callback(_elsewhere.reset, _elsewhere.set(True))
        if torch.get_default_dtype() != torch.float32:
            stack.enter_context(Float32Defaults(torch.get_default_dtype()))
        yield


def at_home(model: nn.Module) -> Any:
    """For a call of a model: tensors that it makes without a device are on its own, where the caller's default is not
    the CPU. A context manager."""
    return torch.device(device_of(model)) if _elsewhere.get() else nullcontext()


@contextmanager
def _outermost_autocast() -> Iterator[None]:
    """As outside of every ``torch.autocast``: within one, casts of weights are kept until it ends, and grow stale."""
    levels = torch.autocast_increment_nesting()
    try:
        while torch.autocast_decrement_nesting():
            pass
        torch.clear_autocast_cache()
        yield
    finally:
        for _ in range(levels - 1):
            torch.autocast_increment_nesting()


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """All models in evaluation mode; the mode of every module is restored afterwards. On CUDA, recurrent layers stay in
    training mode, without dropout: in evaluation mode cuDNN gives them no gradients. Those of embeddings are dense.

    Raises:
        ModelError: a model has no evaluation mode, such as the module of an exported program.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    sparse: list[Any] = [module for module, _ in modes if isinstance(module, _EMBEDDINGS) and module.sparse]
    recurrent: list[tuple[Any, float]] = [
        (m, m.dropout) for m, _ in modes if isinstance(m, nn.RNNBase) and type(m).forward in _RECURRENT and _on_cuda(m)
    ]
    try:
        for model in models:
            try:
                model.eval()
            except NotImplementedError as error:
                raise ModelError(
                    f"{type(model).__name__} cannot be put into evaluation mode ({printable(str(error))}): pass the "
                    "module that it was made from"
                ) from error
        for module, _ in recurrent:
            module.training, module.dropout = True, 0.0
        for module in sparse:
            module.sparse = False
        yield
    finally:
        for module, dropout in recurrent:
            module.dropout = dropout
        for module in sparse:
            module.sparse = True
        for module, training in modes:
            module.training = training


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


def _on_cuda(module: nn.Module) -> bool:
    return any(parameter.is_cuda for parameter in module.parameters())
