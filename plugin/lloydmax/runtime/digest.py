"""Digests of tensors, models and plain data: what tells two runs apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes in which torch keeps what every module has: its mode, hooks, and the tensors that are told anyway."""
_PLAIN = (int, float, complex, bool, str, bytes, type(None), np.generic, torch.dtype, torch.device)
_DEPTH = 8
"""Dicts and lists within each other that are looked into."""


def fingerprint(tensors: Iterable[Tensor]) -> bytes:
    """A digest (16 bytes) of the values, shapes and dtypes of tensors, in their order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()[:16]


def array_fingerprint(array: np.ndarray[Any, Any]) -> bytes:
    """A digest (16 bytes) of the values, shape and dtype of an array."""
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes())
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


def content(data: Any) -> object:
    """What is another one after a tensor or array was written to, hashable; ``None`` for anything else."""
    if isinstance(data, np.ndarray):
        return None if isinstance(data, np.memmap) and not data.flags.writeable else array_fingerprint(data)
    if isinstance(data, Tensor):
        return fingerprint([data]) if data.is_inference() else data._version
    return None


def model_fingerprint(model: nn.Module) -> bytes:
    """A digest (16 bytes) of all parameters and buffers, and of the names, types and plain attributes of all modules.

    Plain attributes are numbers, texts, tensors, arrays, and lists, tuples, sets and dicts of these; functions and
    classes count by their names, other objects by their types and the numbers and texts that they have.
    """
    held = [*model.parameters(), *model.buffers()]
    known = {id(tensor): number for number, tensor in enumerate(held)}
    digest = hashlib.sha256(fingerprint(held))
    for name, module in model.named_modules(remove_duplicate=False):
        own = {key: value for key, value in vars(module).items() if key not in _OF_MODULES}
        digest.update(f"{name}:{_name(type(module))}{_described(own, known)}\n".encode())
    return digest.digest()[:16]


def _described(value: Any, known: Mapping[int, int], depth: int = 0) -> str:
    """The same text for the same content, in every process."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in known:
        return f"tensor {known[id(value)]}"
    if type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided and not value.is_meta:
        return fingerprint([value]).hex()
    if isinstance(value, np.ndarray):
        return array_fingerprint(value).hex()
    if isinstance(value, (dict, list, tuple, set, frozenset)) and depth < _DEPTH:
        items = value.items() if isinstance(value, dict) else value
        told = [_described(item, known, depth + 1) for item in items]
        return f"{_name(type(value))}({', '.join(sorted(told) if isinstance(value, (set, frozenset)) else told)})"
    if hasattr(value, "__qualname__"):
        return _name(value)
    own = {} if isinstance(value, nn.Module) else getattr(value, "__dict__", {})
    return f"{_name(type(value))}{ {key: one for key, one in own.items() if isinstance(one, _PLAIN)} }"


def _name(named: Any) -> str:
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"
