"""Save and load compressed models.

A tensor is known by the name that it has in the original, uncompressed architecture, whatever holds it now.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import secrets
import stat
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lloydmax import packing
from lloydmax.codebook import Codebook, code_dtype
from lloydmax.errors import CheckpointError
from lloydmax.fileformat import (
    DEFAULT_STORAGE,
    DTYPES,
    FLOATS,
    KEY,
    Document,
    Entry,
    File,
    Parameter,
    checksum,
    file_size,
    naming,
)
from lloydmax.inspection import Inspection, inspect, verify
from lloydmax.layers import CodebookLayer, CodebookTensor, CodesHolder
from lloydmax.student import CodebookWeight, attach, finish

__all__ = [
    "Inspection",
    "Parameter",
    "Sizes",
    "accountings",
    "contents",
    "fits",
    "inspect",
    "load",
    "predicted_size",
    "round_floats",
    "save",
    "verify",
]

_TOLERANCE = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-8}
_BLOCK = 1 << 24
_THREADS = 4
_NAMED = 5

Recipe = Mapping[str, Any]
Storage = Mapping[str, str]


def contents(model: nn.Module) -> tuple[dict[str, Tensor | Codebook], dict[str, str]]:
    """Everything that a file stores of a model, compressed or not.

    Returns:
        Each parameter and persistent buffer under its first name (not copied), compressed ones as
        :class:`~lloydmax.Codebook`; and the further names of tied ones -> their first name.
    """
    values: dict[str, Tensor | Codebook] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, value in _held(model):
        key = id(value.codes if isinstance(value, Codebook) else value)
        known = first.setdefault(key, name)
        if known != name and _same(values[known], value):
            tied[name] = known
        else:
            values[name] = value
    return values, tied


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor | Codebook]]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, CodesHolder) or _holds_codes(module):
            continue
        dot = f"{prefix}." if prefix else ""
        if parametrize.is_parametrized(module):
            for leaf, held in module.parametrizations.items():  # type: ignore[operator, union-attr]
                if _holds_codes(held):
                    centroids, weight = held.original.detach(), held[0]
                    yield dot + leaf, Codebook(centroids, weight.codes, weight.granularity, weight.axis)
        if isinstance(module, CodebookLayer):
            for leaf, tensor in module.codebooks.items():
                assert isinstance(tensor, CodebookTensor)
                yield dot + leaf, tensor.codebook()
        for leaf, plain in _own(module).items():
            yield dot + leaf, plain


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of the module itself."""
    buffers = {
        name: buffer
        for name, buffer in module._buffers.items()
        if name not in module._non_persistent_buffers_set
    }
    return {name: tensor for name, tensor in {**module._parameters, **buffers}.items() if tensor is not None}


def _holds_codes(module: nn.Module) -> bool:
    return isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], CodebookWeight)


def _same(first: Tensor | Codebook, second: Tensor | Codebook) -> bool:
    if isinstance(first, Codebook) and isinstance(second, Codebook):
        return (first.granularity, first.axis) == (second.granularity, second.axis) and (
            first.centroids is second.centroids or torch.equal(first.centroids, second.centroids)
        )
    return first is second


# Storage in a narrower floating-point dtype


def fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a float32 tensor may be rounded to float16 or bfloat16.

    Nothing overflows and, with a tolerance of 2**-10 (bfloat16: 2**-8), the rounding error is small: relative to
    each value when all are positive (such as variances), else relative to the largest magnitude.
    """
    wide = tensor.detach()
    error = (wide.to(dtype).to(wide.dtype) - wide).abs()
    if not bool(torch.isfinite(error).all()):
        return False
    positive = bool((wide > 0).all())
    scale = wide if positive else wide.abs().amax()
    return bool((error <= _TOLERANCE[dtype] * scale).all())


@torch.no_grad()
def round_floats(model: nn.Module, storage: Storage | None = None) -> None:
    """Round the float32 values of a model, in place, to what a file with this storage holds.

    Afterwards :func:`save` is exact: the loaded model equals the saved one bit for bit.

    Args:
        model: with or without codebooks; dtypes stay as they are.
        storage: ``{"floats": "float32" | "float16" | "bfloat16", ...}``; absent, what the model remembers.

    Raises:
        CheckpointError: unknown storage options.
    """
    _, chosen = _settings(model, None, storage)
    for _, value in _held(model):
        tensor, dtype = _target(value, chosen)
        if tensor.dtype != dtype and fits(tensor, dtype):
            tensor.copy_(tensor.to(dtype))
    for module in model.modules():
        if isinstance(module, CodesHolder):
            module.set_cache(module.cached)


def _target(value: Tensor | Codebook, storage: Storage) -> tuple[Tensor, torch.dtype]:
    """The floating-point values, and the dtype in which they are stored if they fit."""
    floats = FLOATS[storage["floats"]]
    if not isinstance(value, Codebook):
        return value, floats if value.dtype == torch.float32 else value.dtype
    dtype = value.centroids.dtype
    if dtype == torch.bfloat16:
        return value.centroids, torch.float32
    return value.centroids, torch.float16 if torch.float16 in (dtype, floats) else torch.float32


def _exact(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in ``dtype``, if that loses not a single bit; else as it is."""
    other = tensor.to(dtype)
    if dtype.itemsize >= tensor.dtype.itemsize:
        return other
    return (
        other if torch.equal(other.to(tensor.dtype).view(torch.int32), tensor.view(torch.int32)) else tensor
    )


# Saving


@dataclass
class _Parts:
    """A model, taken apart: ``plain`` holds the codebooks and all other tensors under their names in the file."""

    document: Document
    plain: dict[str, Tensor]
    codes: dict[str, Codebook]

    def entries(self, code_bytes: Mapping[str, int]) -> list[Entry]:
        """The table of the file; streams that ``code_bytes`` does not name are packed."""
        streams = [
            Entry(f"{name}.codes", "U8", (code_bytes.get(name, _packed_bytes(parameter)),))
            for name, parameter in self.document.parameters.items()
        ]
        return [Entry.of(name, tensor) for name, tensor in self.plain.items()] + streams

    def coded(self, names: Mapping[str, object]) -> Document:
        """The document, with entropy coding for these parameters."""
        parameters = {
            name: replace(parameter, coding="entropy") if name in names else parameter
            for name, parameter in self.document.parameters.items()
        }
        return replace(self.document, parameters=parameters)


def _parts(model: nn.Module, recipe: Recipe | None, storage: Storage) -> _Parts:
    values, tied = contents(model)
    document = Document({}, tied=tied, recipe=None if recipe is None else dict(recipe), **_versions())
    parts = _Parts(document, {}, {})
    for name, value in values.items():
        tensor, dtype = _target(value, storage)
        _check_tensor(name, tensor)
        stored = _exact(tensor.detach(), dtype)
        if isinstance(value, Codebook):
            document.parameters[name] = _describe(name, value)
            parts.codes[name] = value
            name = f"{name}.codebook"
        elif stored.dtype != tensor.dtype:
            document.floats[name] = "float32"
        parts.plain[name] = stored
    if not parts.codes:
        raise CheckpointError("the model holds no codebooks; compress it first")
    return parts


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    recipe: Recipe | None = None,
    storage: Storage | None = None,
) -> int:
    """Write a compressed model; the file appears complete or not at all.

    The same model, recipe and storage give the same bytes. Nothing is rounded: a tensor is stored in the narrower
    dtype of ``storage`` only if no bit of it is lost, see :func:`round_floats`.

    Args:
        model: trained or finished, with at least one codebook.
        path: the file to write, ``.safetensors``; replaced if it exists.
        recipe: plain JSON data that is kept in the file; absent, what the model remembers.
        storage: ``{"floats": "float32" | "float16" | "bfloat16", "codes": "packed" | "entropy"}``; absent, what
            the model remembers, else float32 and packed. ``entropy`` is used where it is smaller.

    Returns:
        Size of the file in bytes.

    Raises:
        CheckpointError: the model holds no codebooks, or something that no file can hold; the folder is missing,
            the disk is full.
    """
    recipe, storage = _settings(model, recipe, storage)
    with naming(path):
        _check_state(model)
        parts = _parts(model, recipe, storage)
        tensors = {name: _portable(tensor) for name, tensor in parts.plain.items()}
        entropy: dict[str, int] = {}
        for name, codebook in parts.codes.items():
            stream = packing.pack(codebook.codes, codebook.bits)
            if storage["codes"] == "entropy":
                coded = packing.entropy_encode(codebook.codes, codebook.bits)
                if len(coded) < stream.size:
                    entropy[name], stream = len(coded), np.frombuffer(bytearray(coded), np.uint8)
            tensors[f"{name}.codes"] = torch.from_numpy(stream)
        entries = parts.entries(entropy)
        checksums = tuple(checksum(tensors[name]) for name in sorted(tensors))
        document = replace(parts.coded(entropy), crc32=checksums)
        document.check({entry.name: entry for entry in entries})
        return _write(Path(path), tensors, document.text(entries))


def _write(path: Path, tensors: dict[str, Tensor], text: str) -> int:
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise CheckpointError("is a directory")
    if not target.parent.is_dir():
        raise CheckpointError(f"the folder {target.parent} does not exist")
    temporary = target.with_name(f".lloydmax-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        save_file(tensors, temporary, {KEY: text})
        temporary.chmod(mode)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return size


def _settings(
    model: nn.Module, recipe: Recipe | None, storage: Storage | None
) -> tuple[Recipe | None, dict[str, str]]:
    remembered: Mapping[str, Any] = getattr(model, "_lloydmax", None) or {}
    recipe = remembered.get("recipe") if recipe is None else recipe
    chosen = {**DEFAULT_STORAGE, **((remembered.get("storage") or {}) if storage is None else storage)}
    if set(chosen) != set(DEFAULT_STORAGE) or chosen["floats"] not in FLOATS:
        raise CheckpointError(f"storage {chosen}: floats is one of {', '.join(FLOATS)}")
    if chosen["codes"] not in ("packed", "entropy"):
        raise CheckpointError(f"storage {chosen}: codes is 'packed' or 'entropy'")
    return recipe, chosen


def _describe(name: str, codebook: Codebook) -> Parameter:
    codes, centroids = codebook.codes, codebook.centroids
    low, high = (int(bound) for bound in torch.aminmax(codes)) if codes.numel() else (0, 0)
    if low < 0 or high >= codebook.k:
        raise CheckpointError(f"{name!r} has codes {low} .. {high} for {codebook.k} centroids")
    if not bool(torch.isfinite(centroids).all()):
        raise CheckpointError(f"{name!r} has NaN or infinite centroids")
    dtype = str(centroids.dtype).removeprefix("torch.")
    found = Parameter(tuple(codes.shape), codebook.k, dtype, codebook.granularity, codebook.axis)
    try:
        return Parameter.from_document(found.to_document())
    except CheckpointError as error:
        raise CheckpointError(f"{name!r} cannot be stored: {error}") from error


def _check_tensor(name: str, tensor: Tensor) -> None:
    plain = tensor.detach()
    if type(plain) is not Tensor or plain.layout != torch.strided or plain.is_quantized or plain.is_meta:
        kind = "on the meta device" if plain.is_meta else f"{type(plain).__name__}, {plain.layout}"
        raise CheckpointError(f"{name!r} is no ordinary tensor ({kind})")
    if plain.dtype not in DTYPES:
        raise CheckpointError(f"{name!r} is {plain.dtype}, which safetensors cannot hold")


def _check_state(model: nn.Module) -> None:
    """Refuse modules whose state dict has more than parameters and buffers (packed weights, extra state)."""
    for name, module in model.named_modules():
        state: dict[str, Any] = {}
        module._save_to_state_dict(state, "", True)
        if extra := [key for key in state if key not in _own(module) and state[key] is not None]:
            kind = type(module).__name__
            raise CheckpointError(
                f"module {name!r} ({kind}) keeps {extra[0]!r}, which is no parameter or buffer"
            )


def _portable(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)


def _packed_bytes(parameter: Parameter) -> int:
    return packing.packed_bytes(parameter.count, parameter.bits)


@functools.cache
def _versions() -> dict[str, str]:
    try:
        own = importlib.metadata.version("lloydmax")
    except importlib.metadata.PackageNotFoundError:
        own = "unknown"
    return {"lloydmax": own, "torch": torch.__version__}


# Loading


def load(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Turn the original architecture into the compressed model that a file holds.

    Everything is checked before ``model`` is touched. It is then changed in place: compressed parameters get their
    codebooks, all other parameters and persistent buffers the stored values, on the devices of ``model``.

    Args:
        path: a file that :func:`save` wrote.
        model: the uncompressed architecture, with any values.

    Returns:
        ``model``, or its replacement when the model itself is a single ``Linear`` or the like. Same outputs, bit
        for bit, as those of the saved model.

    Raises:
        CheckpointError: the file cannot be read or is damaged, or belongs to another model.
    """
    with naming(path), File(path) as file:
        values, tied = contents(model)
        _match(file, values, tied)
        document = file.document
        stored = {name: document.tied.get(name, name) for name in values}
        codebooks = {
            name: _codebook(file, own, values[name])
            for name, own in stored.items()
            if own in document.parameters
        }
        tensors = {name: file.tensor(own) for name, own in stored.items() if name not in codebooks}
        with torch.no_grad():
            for name, tensor in tensors.items():
                values[name].copy_(tensor)  # type: ignore[union-attr]
        for name, codebook in codebooks.items():
            attach(model, name, codebook)
        loaded = finish(model)
        loaded._lloydmax = {"recipe": document.recipe, "storage": document.storage(file.entries)}  # type: ignore[assignment]
        return loaded


def _codebook(file: File, name: str, weight: Tensor | Codebook) -> Codebook:
    assert isinstance(weight, Tensor)
    about = file.document.parameters[name]
    codes = torch.zeros(about.count, dtype=code_dtype(about.k))
    start = 0
    for block in file.codes(name):
        codes[start : start + block.size] = torch.from_numpy(block)
        start += block.size
    return Codebook(
        file.centroids(name).to(weight.device, weight.dtype, copy=True),
        codes.view(about.shape).to(weight.device),
        about.granularity,
        about.axis,
    )


def _match(file: File, values: Mapping[str, Tensor | Codebook], tied: Mapping[str, str]) -> None:
    """The file belongs to this architecture: same names, shapes, dtypes and ties."""
    if any(isinstance(value, Codebook) for value in values.values()):
        raise CheckpointError("the model already holds codebooks; pass the fresh, uncompressed architecture")
    document, plain = file.document, file.document.plain(file.entries)
    known = set(document.parameters) | set(plain) | set(document.tied)
    names = set(values) | set(tied)
    problems = []
    if missing := sorted(names - known):
        problems.append(f"the file lacks {_some(missing)}")
    if unexpected := sorted(known - names):
        problems.append(f"the model lacks {_some(unexpected)}")
    differences = []
    for name in sorted(known & names):
        value, own = values[tied.get(name, name)], document.tied.get(name, name)
        assert isinstance(value, Tensor)
        parameter, entry = document.parameters.get(own), plain.get(own)
        shape = parameter.shape if parameter else entry.shape  # type: ignore[union-attr]
        dtype = parameter.dtype if parameter else document.floats.get(own, entry.torch_dtype)  # type: ignore[union-attr]
        found = str(value.dtype).removeprefix("torch.")
        if shape != tuple(value.shape):
            differences.append(f"{name} is {shape} in the file, {tuple(value.shape)} in the model")
        elif dtype != found:
            differences.append(
                f"{name} is {dtype} in the file, {found} in the model; call model.to(torch.{dtype})"
            )
        elif parameter and not isinstance(value, nn.Parameter):
            differences.append(f"{name} is compressed in the file, but a buffer in the model")
        elif value.is_meta:
            differences.append(f"{name} is on the meta device; call model.to_empty(device=...) first")
        elif (first := tied.get(name)) in known:
            other = document.tied.get(first, first)
            if own != other and file.signature(own) != file.signature(other):
                differences.append(f"{name} and {first} are one in the model, but differ in the file")
    if problems or differences:
        raise CheckpointError("belongs to another model: " + "; ".join(problems + _first(differences)))


def _some(names: list[str]) -> str:
    return ", ".join(_first(names))


def _first(items: list[str]) -> list[str]:
    more = len(items) - _NAMED
    return items[:_NAMED] + ([f"and {more} more"] if more > 0 else [])


# Sizes


@dataclass(frozen=True)
class Sizes:
    """Sizes of one model in bytes.

    Attributes:
        original: the dense tensors in their own dtypes, tied ones once.
        packed: the file with codes of fixed width.
        entropy_coded: the file with entropy-coded codes where that is smaller.
        gzip_float32: the dense tensors as float32, compressed by gzip at level 6: the proxy of many papers.
        file: the file that :func:`save` writes.
    """

    original: int
    packed: int
    entropy_coded: int
    gzip_float32: int
    file: int


def predicted_size(
    model: nn.Module,
    parameters: Mapping[str, Parameter],
    recipe: Recipe | None = None,
    storage: Storage | None = None,
) -> int:
    """Size of the file before anything is compressed: exact but for what training and fitting change.

    Args:
        model: the uncompressed model.
        parameters: what each compressed parameter will be, by any of its names.
        recipe: that the file will keep.
        storage: as for :func:`save`. Codes count as packed, whatever it says: an upper bound.

    Raises:
        CheckpointError: a name that the model does not have, or storage options that do not exist.
    """
    recipe, storage = _settings(model, recipe, storage)
    values, tied = contents(model)
    chosen = {tied.get(name, name): parameter for name, parameter in parameters.items()}
    if unknown := sorted(set(chosen) - set(values)):
        raise CheckpointError(f"the model has no parameter {_some(unknown)}")
    document = Document(chosen, tied=tied, recipe=None if recipe is None else dict(recipe), **_versions())
    entries: list[Entry] = []
    for name, value in values.items():
        if (parameter := chosen.get(name)) is not None:
            half = "float16" in (parameter.dtype, storage["floats"]) and parameter.dtype != "bfloat16"
            entries += parameter.entries(name, "F16" if half else "F32")
            continue
        tensor, dtype = _target(value, storage)
        _check_tensor(name, tensor)
        if tensor.dtype != dtype and fits(tensor, dtype):
            document.floats[name] = "float32"
            entries.append(Entry(name, DTYPES[dtype], tuple(tensor.shape)))
        else:
            entries.append(Entry.of(name, tensor))
    return file_size(document, entries)


def accountings(model: nn.Module, recipe: Recipe | None = None, storage: Storage | None = None) -> Sizes:
    """The size of a compressed model, counted in the ways that papers count it; nothing is written.

    Args:
        model: with at least one codebook.
        recipe: that the file keeps; absent, what the model remembers.
        storage: its ``floats`` count; absent, what the model remembers.

    Raises:
        CheckpointError: the model holds no codebooks.
    """
    recipe, storage = _settings(model, recipe, storage)
    parts = _parts(model, recipe, storage)
    entropy = {}
    for name, codebook in parts.codes.items():
        size = len(packing.entropy_encode(codebook.codes, codebook.bits))
        if size < _packed_bytes(parts.document.parameters[name]):
            entropy[name] = size
    values, _ = contents(model)
    dense = [
        value.codes.numel() * value.centroids.element_size() if isinstance(value, Codebook) else value.nbytes
        for value in values.values()
    ]
    packed = file_size(parts.document, parts.entries({}))
    entropy_coded = file_size(parts.coded(entropy), parts.entries(entropy))
    return Sizes(
        original=sum(dense),
        packed=packed,
        entropy_coded=entropy_coded,
        gzip_float32=_gzip_size(values.values()),
        file=entropy_coded if storage["codes"] == "entropy" else packed,
    )


def _gzip_size(values: Any) -> int:
    blocks, total = _dense_blocks(values), 0
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(blocks, _THREADS)):
            total += sum(pool.map(lambda block: len(zlib.compress(block, 6, 31)), batch))
    return total


def _dense_blocks(values: Any) -> Iterator[bytearray]:
    block = bytearray()
    for value in values:
        dense = (value.dequantize() if isinstance(value, Codebook) else value).detach()
        if dense.is_floating_point():
            dense = dense.to(torch.float32)
        data = memoryview(dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        while data:
            room = _BLOCK - len(block)
            block += data[:room]
            data = data[room:]
            if len(block) == _BLOCK:
                yield block
                block = bytearray()
    if block:
        yield block
