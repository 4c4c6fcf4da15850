"""Digests of tensors, models and plain data: what tells two runs apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

from lloydmax.runtime.description import Description

_GLOBAL_HOOKS: tuple[Any, ...] = (everywhere._global_forward_pre_hooks, everywhere._global_forward_hooks)
_ROOM = 1 << 28
"""Bytes of tensors and arrays beside a model's own, in closures for example, that count in full."""
_PLAIN = (int, float, complex, bool, str, bytes, type(None), np.generic, torch.dtype, torch.device)
_DEPTH = 8
"""Dicts and lists within each other that are looked into."""
_told: WeakKeyDictionary[nn.Module, bytes] = WeakKeyDictionary()


def fingerprint(tensors: Iterable[Tensor]) -> bytes:
    """A digest (16 bytes) of the values, shapes and dtypes of tensors, in their order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()[:16]


def arrays_in(data: Any, depth: int = 0) -> Iterator[Tensor | np.ndarray[Any, Any]]:
    """The tensors and arrays that data consists of: in lists, tuples and dicts, and in the attributes of datasets."""
    if isinstance(data, (Tensor, np.ndarray)):
        yield data
    elif depth < _DEPTH and not isinstance(data, (*_PLAIN, type, nn.Module)):
        if isinstance(data, Mapping):
            held: Iterable[Any] = data.values()
        else:
            held = data if isinstance(data, (list, tuple)) else getattr(data, "__dict__", {}).values()
        for one in held:
            yield from arrays_in(one, depth + 1)


def model_fingerprint(model: nn.Module) -> bytes:
    """A digest (16 bytes) of all that a model's outputs depend on, but its modes: the code of its classes and of the
    functions that it holds, attributes, hooks, parameters and buffers with their memory formats and devices, what is
    shared; see :mod:`lloydmax.runtime.description`.
    """
    if (known := _told.get(model)) is not None:
        return known
    modules = {id(module): f"module {n}" for n, module in enumerate(model.modules())}
    held = {id(tensor): f"tensor {n}" for n, tensor in enumerate((*model.parameters(), *model.buffers()))}
    values, modular = Description(), Description(_ROOM, modules, held)
    digest = hashlib.sha256()
    for tensor in (*model.parameters(), *model.buffers()):
        digest.update(values.of(tensor))
    for name, module in model.named_modules(remove_duplicate=False):
        digest.update(f"{name}:{modules[id(module)]}:".encode() + modular.module(module))
    digest.update(modular.of([list(hooks.values()) for hooks in _GLOBAL_HOOKS]))
    return digest.digest()[:16]


@contextmanager
def told(fingerprint: bytes | None, model: nn.Module) -> Iterator[None]:
    """Within, :func:`model_fingerprint` of this model, which is not changed, is the one given; ``None``: as ever."""
    if fingerprint is not None:
        _told[model] = fingerprint
    try:
        yield
    finally:
        _told.pop(model, None)
