"""State files of runs that go on after a kill: written whole or not at all, with a checksum, and nothing in them runs.

A file is one line with the checksum, one line of JSON that says what there is, and the bytes of all tensors.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lloydmax.errors import OutputError, RecoveryError
from lloydmax.runtime import processes
from lloydmax.runtime.files import replacing
from lloydmax.runtime.text import printable

_FORMAT = b"lloydmax state 2 "
_LONGEST = 300
"""Characters of a reason, which may hold what a foreign file says."""
_DTYPES = {str(found): found for found in vars(torch).values() if isinstance(found, torch.dtype)}
UNFIT = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What taking over a state raises that is something else than was kept."""
_ARRAYS = "biufcSU"
"""Kinds of numpy's dtypes whose values are their bytes."""


def write(path: Path, state: Any) -> None:
    """Write a state, whole or not at all; of several processes the first one does.

    Args:
        path: the file; its name and that of its folder count in the checksum.
        state: tensors of any dtype, arrays, and dicts, lists and tuples of these, of text, bytes, numbers and ``None``.

    Raises:
        RecoveryError: something else is in the state; it says where. OutputError: the file cannot be written.
    """
    if not processes.writes():
        return
    told, tensors = _encoded(state, path.name)
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            digest = _digest(path)
            file.write(_FORMAT + b"0" * 2 * digest.digest_size + b"\n")
            for piece in (told, *(_bytes(tensor) for tensor in tensors)):
                digest.update(piece)
                file.write(piece)
            file.seek(len(_FORMAT))
            file.write(digest.hexdigest().encode())
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"{path}: the state of the run cannot be kept ({reason}): make room or give another workdir; the same call "
            "goes on from what was kept before"
        ) from error


def read(path: Path | None) -> Any:
    """The state in a file, tensors on the CPU; ``None`` where there is none that is whole. What is there instead is set
    aside, see :func:`set_aside`."""
    if path is None or not os.path.lexists(path):
        return None
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is not an ordinary file")
        with path.open("rb") as file:
            if file.read(len(_FORMAT)) != _FORMAT:
                raise ValueError("it is not a state that this version wrote")
            digest = _digest(path)
            told = file.read(2 * digest.digest_size + 1).decode("ascii").rstrip("\n")
            start = file.tell()
            while piece := file.read(1 << 20):
                digest.update(piece)
            if digest.hexdigest() != told:
                raise ValueError("its checksum is not that of its content")
            file.seek(start)
            if (state := _decoded(file.readline(), bytearray(file.read()))) is None:
                raise ValueError("it holds nothing")
            return state
    except UNFIT as error:
        set_aside(path, str(error))
        return None


def set_aside(path: Path, reason: str) -> None:
    """Rename a file that cannot be used to ``NAME.damaged``, with a warning; of several processes the first one does.

    Args:
        path: the file.
        reason: why not; of several lines the first one is told.
    """
    if not processes.writes():
        return
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
        done = f"it is set aside as {aside.name}"
    except OSError as error:
        done = f"it cannot be set aside ({error.strerror})"
    reason = printable(next(iter(reason.splitlines()), "it cannot be read"), _LONGEST)
    warnings.warn(f"{path}: {reason}; {done}, and the work is done again", stacklevel=3)


def dumps(state: Any) -> str:
    """A state as :func:`write` takes it, as text in one line."""
    told, tensors = _encoded(state, "state")
    return base64.b64encode(b"".join((told, *map(_bytes, tensors)))).decode("ascii")


def loads(text: str) -> Any:
    """What :func:`dumps` was given.

    Raises:
        ValueError, or another of :data:`UNFIT`: the text is something else.
    """
    told, line, values = base64.b64decode(text).partition(b"\n")
    return _decoded(told + line, bytearray(values))


def _digest(path: Path) -> Any:
    return hashlib.sha256(f"{path.parent.name}/{path.name}\n".encode())


def _encoded(state: Any, where: str) -> tuple[bytes, list[Tensor]]:
    """The line of JSON, and the tensors that it counts; the same tensor once."""
    tensors: list[Tensor] = []
    known: dict[Any, list[Any]] = {}
    size = 0

    def tensor(value: Tensor, where: str) -> list[Any]:
        nonlocal size
        value = value.detach()
        if value.layout != torch.strided or value.is_quantized or value.is_meta or type(value) is not Tensor:
            raise RecoveryError(f"{where}: a tensor that is {value.layout} on {value.device} cannot be kept in a state")
        strides = torch.empty_like(value, device="meta").stride()
        key = value.data_ptr(), value.device, value.dtype, value.shape, value.stride(), value.is_conj(), value.is_neg()
        if key not in known or not value.numel():
            known[key] = ["tensor", str(value.dtype), list(value.shape), list(strides), size]
            tensors.append(value)
            size += value.nbytes
        return known[key]

    def plain(value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return ["float", value.hex()]
        if isinstance(value, Tensor):
            return tensor(value, where)
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in _ARRAYS:
            raw = torch.from_numpy(np.frombuffer(value.tobytes() + b"\0", np.uint8).copy())[:-1]
            kind = "array" if isinstance(value, np.ndarray) else "scalar"
            return [kind, value.dtype.str, list(value.shape), tensor(raw, where)]
        if isinstance(value, bytes):
            return ["bytes", value.hex()]
        if isinstance(value, dict):
            return ["dict", [[plain(k, where), plain(item, f"{where}.{k}")] for k, item in value.items()]]
        if isinstance(value, (list, tuple)):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return [kind, [plain(item, f"{where}.{n}") for n, item in enumerate(value)]]
        if isinstance(value, torch.dtype):
            return ["dtype", str(value)]
        if isinstance(value, str):  # of a class of its own, such as an enumeration
            return str.__str__(value)
        if isinstance(value, (int, float)):
            return plain(int(value) if isinstance(value, int) else float(value), where)
        raise RecoveryError(f"{where}: a {type(value).__name__} cannot be kept in a state: give tensors and plain data")

    try:
        text = json.dumps(plain(state, where), separators=(",", ":"))
    except RecursionError:
        raise RecoveryError(f"{where}: data nested so deeply cannot be kept in a state") from None
    return text.encode() + b"\n", tensors


def _bytes(tensor: Tensor) -> bytes | memoryview:
    """The values of a tensor, in the order of its shape."""
    plain = tensor.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data if plain.numel() else b""


def _decoded(line: bytes, values: bytearray) -> Any:
    """What :func:`_encoded` was given."""
    known: dict[int, Tensor] = {}

    def tensor(dtype: str, shape: list[int], strides: list[int], start: int) -> Tensor:
        if start in known and known[start].numel():
            return known[start]
        meta = torch.empty(shape, dtype=_DTYPES[dtype], device="meta")
        if start + meta.nbytes > len(values) or sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) >= max(
            1, meta.numel()
        ):
            raise ValueError("a tensor in it has no values")
        made = torch.empty_strided(shape, strides, dtype=meta.dtype)
        if made.numel():
            made.copy_(torch.frombuffer(values, dtype=meta.dtype, count=meta.numel(), offset=start).view(shape))
        known[start] = made
        return made

    def full(told: Any) -> Any:
        match told:
            case None | bool() | int() | str():
                return told
            case ["float", str(text)]:
                return float.fromhex(text)
            case ["tensor", dtype, shape, strides, start]:
                return tensor(dtype, shape, strides, start)
            case ["array" | "scalar" as kind, dtype, shape, raw]:
                array = np.frombuffer(full(raw).numpy().tobytes(), np.dtype(dtype)).reshape(shape).copy()
                return array if kind == "array" else array[()]
            case ["bytes", str(text)]:
                return bytes.fromhex(text)
            case ["dict", list(pairs)]:
                return {full(key): full(item) for key, item in pairs}
            case ["list", list(items)]:
                return [full(item) for item in items]
            case ["tuple", list(items)]:
                return tuple(full(item) for item in items)
            case ["dtype", str(name)]:
                return _DTYPES[name]
        raise ValueError("it holds something that is not known")

    return full(json.loads(line))
