"""Trees of tensors, as networks return them: what is in them, and how a place in them is written."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.errors import RecoveryError

Path = tuple[str | int, ...]
"""Keys, attributes and positions on the way from a whole output to something in it."""
_STATE = frozenset({"past_key_values", "cache", "cache_params", "mems"})
"""What a model keeps for its next call: no answer, so it counts only where it is named."""
_NO_TREES = (str, bytes, int, float, complex, type, nn.Module, ModuleType, FunctionType, MethodType, torch.device)
_MOST_LISTED = 20


def output_tensors(output: Any, key: str | int | None = None) -> list[Tensor]:
    """The floating tensors of a model's output, as the model returns them; complex ones as pairs of real numbers.

    Where samples, classes and padding matter, :class:`lloydmax.network.outputs.Outputs` reads them.

    Args:
        output: a tensor, or any tree of tuples, lists, mappings, dataclasses and plain objects with tensors in it.
        key: the path of one, or of a part of the tree: ``logits``, ``heads.cls``, ``1.0``, or a position. Without it,
            ``logits`` is taken where there are such at the top, else every floating tensor at any depth.

    Raises:
        RecoveryError: nothing fits; the message lists what there is.
    """
    return [real(tensor) for tensor in counted(output, key).values()]


def counted(output: Any, key: str | int | None = None) -> dict[Path, Tensor]:
    """What :func:`output_tensors` gives, by path, and as the model returns it."""
    if key is None:
        scores = getattr(output, "logits", None) if not isinstance(output, Mapping) else output.get("logits")
        if isinstance(scores, Tensor) and not isinstance(output, tuple):
            found: dict[Path, Tensor] = {("logits",): scores}
        else:
            found = {path: tensor for path, tensor in _tree(output) if not _STATE & set(path)}
    else:
        where = resolved(output, key)
        if where is None:
            raise RecoveryError(f"the model's output has no tensor {key!r}; it has {described(output)}")
        found = {(*where, *path): tensor for path, tensor in _tree(_at(output, where))}
    floating = {path: tensor for path, tensor in found.items() if _counts(tensor)}
    if not floating:
        what = "the model's output" if key is None else f"{key!r} in the model's output"
        raise RecoveryError(
            f"{what} holds no floating tensor: {described(output)}; name one by 'output', or let the model return, in "
            "tensors, the numbers that its decisions come from"
        )
    return floating


def described(output: Any) -> str:
    """The tensors in an output, for messages: path, dtype and shape of each; or what it is instead."""
    said = [f"{written(path) or 'the tensor itself'} ({_kind(tensor)})" for path, tensor in _tree(output)]
    more = [f"and {len(said) - _MOST_LISTED} more"] if len(said) > _MOST_LISTED else []
    return ", ".join(said[:_MOST_LISTED] + more) or f"no tensor, it is of type {type(output).__name__}"


def _kind(tensor: Tensor) -> str:
    shape = "nested" if tensor.is_nested else "x".join(map(str, tensor.shape))
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape}".strip()


def written(path: Path) -> str:
    """A path as recipes have it."""
    return ".".join(map(str, path))


def _counts(tensor: Tensor) -> bool:
    plain = tensor.layout == torch.strided and not tensor.is_nested
    return plain and (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() > 0


def real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, along a last axis of length 2; others as they are."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _tree(output: Any, path: Path = (), above: frozenset[int] = frozenset()) -> Iterator[tuple[Path, Tensor]]:
    """All tensors with their paths, in order; what holds itself is not gone into again."""
    if isinstance(output, Tensor):
        yield path, output
    elif id(output) not in above:
        for key, value in _children(output):
            yield from _tree(value, (*path, key), above | {id(output)})


def _children(value: Any) -> Iterable[tuple[str | int, Any]]:
    if value is None or isinstance(value, _NO_TREES):
        return ()
    if isinstance(value, Mapping):
        return ((key if isinstance(key, int) else str(key), item) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)
    if isinstance(value, (tuple, list, deque)):
        return enumerate(value)
    if dataclasses.is_dataclass(value):
        return ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    return ((key, item) for key, item in getattr(value, "__dict__", {}).items() if not key.startswith("_"))


def child(value: Any, key: str | int) -> Any:
    """What is under a key, attribute or position; ``None``: nothing."""
    if isinstance(value, Mapping):
        return value[key] if key in value else next((v for name, v in value.items() if str(name) == str(key)), None)
    if isinstance(value, (tuple, list, deque)) and (place := _position(key)) is not None:
        return value[place] if -len(value) <= place < len(value) else None
    return None if isinstance(key, int) or isinstance(value, _NO_TREES) else getattr(value, key, None)


def _position(key: str | int) -> int | None:
    try:
        return int(key)
    except ValueError:
        return None


def _at(output: Any, path: Path) -> Any:
    for key in path:
        output = child(output, key)
    return output


def resolved(output: Any, key: str | int) -> Path | None:
    """A written path as keys; names with dots in them are looked for first. ``None``: it leads to nothing."""
    if isinstance(key, int):
        return None if child(output, key) is None else (key,)
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        head, rest = ".".join(parts[:length]), ".".join(parts[length:])
        if (value := child(output, head)) is None:
            continue
        if not rest:
            return (head,)
        if (tail := resolved(value, rest)) is not None:
            return (head, *tail)
    return None
