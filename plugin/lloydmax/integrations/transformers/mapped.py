"""The weights of a transformers folder, mapped: the system reads what is used, and takes back what is not."""

from __future__ import annotations

import json
import math
import mmap
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.errors import IntegrationError
from lloydmax.format.tensor_table import BY_CODE
from lloydmax.network.parameters import owners
from lloydmax.runtime.files import shown

_FILES = ("model.safetensors", "pytorch_model.bin")
"""Of one piece, the first that is there; in shards, an index is beside them whose name begins alike."""
_INDEX = ".index.json"
_PICKLES = {".bin", ".pt", ".pth"}
_LONGEST = 1 << 27
"""Bytes of a header: no model has so many tensors."""
_NAMED = 3


class MappedWeights:
    """Every tensor of the files of a folder, by name; writes into them change no file. Pickles of before torch 1.6 are
    read as they are, others are mapped, too; nothing but tensors is taken out of them.

    Raises:
        IntegrationError: there are none, or one of them is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._maps: list[mmap.mmap] = []
        self.tensors: dict[str, Tensor] = {}
        for name in _files(folder):
            path = folder / name
            try:
                self.tensors |= _unpickled(path) if path.suffix in _PICKLES else self._mapped(path)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
                kind = "a file of tensors alone by torch.save" if path.suffix in _PICKLES else "a safetensors file"
                reason = f"is not {kind} ({str(error).partition(chr(10))[0]})"
                raise IntegrationError(
                    f"{shown(path)}: {(isinstance(error, OSError) and error.strerror) or reason}"
                ) from error

    def let_go(self) -> None:
        """Take what was read out of memory; it is read again when it is used."""
        for one in self._maps if hasattr(mmap, "MADV_DONTNEED") else ():
            one.madvise(mmap.MADV_DONTNEED)

    def _mapped(self, path: Path) -> dict[str, Tensor]:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST):
                raise ValueError("its header is cut off")
            header: dict[str, Any] = json.loads(file.read(length))
            if size == 8 + length:
                return {}
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._maps.append(whole)
        header.pop("__metadata__", None)
        return {name: _tensor(whole, 8 + length, about) for name, about in header.items()}


def _tensor(whole: mmap.mmap, base: int, about: Mapping[str, Any]) -> Tensor:
    dtype, shape = BY_CODE[about["dtype"]], [int(size) for size in about["shape"]]
    start, end = (base + int(offset) for offset in about["data_offsets"])
    count = math.prod(shape)
    if not base <= start <= end <= len(whole) or end - start != count * dtype.itemsize:
        raise ValueError("a tensor lies outside of it")
    if not count:
        return torch.empty(shape, dtype=dtype)
    if start % dtype.itemsize:
        return torch.frombuffer(whole[start:end], dtype=dtype).view(shape).clone()
    return torch.frombuffer(whole, dtype=dtype, count=count, offset=start).view(shape)


def _unpickled(path: Path) -> dict[str, Tensor]:
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    found = torch.load(path, mmap=zipfile.is_zipfile(path), **options)
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError("it holds something else")
    return {str(name): value.detach() for name, value in found.items()}


def _files(folder: Path) -> list[str]:
    there = [name for name in (f"{file}{end}" for file in _FILES for end in (_INDEX, "")) if (folder / name).is_file()]
    if not there:
        raise IntegrationError(
            f"{shown(folder)}: holds neither {_FILES[0]} nor {_FILES[1]}, nor an index of shards: save the model there "
            "by model.save_pretrained"
        )
    if not there[0].endswith(_INDEX):
        return [there[0]]
    index = folder / there[0]
    try:
        names = dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        inside = all(isinstance(name, str) and Path(name).name == name for name in names)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise IntegrationError(f"{shown(index)}: cannot be read ({error})") from error
    if not inside:
        raise IntegrationError(f"{shown(index)}: names a file outside of its folder")
    return [*names]


def fill(model: Any, tensors: Mapping[str, Tensor]) -> list[str]:
    """Give the parameters and persistent buffers of a model without memory, in place, these tensors.

    Args:
        model: of transformers.
        tensors: under the names that it has in memory.

    Returns:
        Names that it has no place for.

    Raises:
        IntegrationError: some are missing, or have another shape.
    """
    left, missing, known = dict(tensors), list[str](), owners(model)
    buffers = {
        f"{prefix}.{leaf}".lstrip("."): (module, leaf)
        for prefix, module in model.named_modules()
        for leaf, buffer in module._buffers.items()
        if buffer is not None and leaf not in module._non_persistent_buffers_set
    }
    for places in known.values():
        found = [given for name, _, _ in places if (given := left.pop(name, None)) is not None]
        if not found:
            missing.append(places[0][0])
            continue
        _check(places[0][0], found[0], getattr(places[0][1], places[0][2]))
        parameter = nn.Parameter(found[0], requires_grad=False)
        for _, module, leaf in places:
            module._parameters[leaf] = parameter
    for name, (module, leaf) in buffers.items():
        given = left.pop(name, None)
        if given is None:
            missing.append(name)
        else:
            _check(name, given, module._buffers[leaf])
            module._buffers[leaf] = given.clone()
    if missing:
        raise IntegrationError(
            f"the folder lacks {len(missing)} tensors of {type(model).__name__}, such as "
            f"{', '.join(sorted(missing)[:_NAMED])}, or has them under other names: compress the model as it is "
            "loaded, by from_pretrained(..., quantization_config=LloydmaxConfig(...))"
        )
    known_to_be_there = [*(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())]
    return sorted(name for name in left if not any(re.search(pattern, name) for pattern in known_to_be_there))


def _check(name: str, given: Tensor, wanted: Tensor | None) -> None:
    if wanted is not None and given.shape != wanted.shape:
        raise IntegrationError(
            f"{name} has shape {tuple(given.shape)} in the folder, and {tuple(wanted.shape)} in its architecture"
        )
