"""How large a model is as a file, measured or predicted; nothing is written."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import CheckpointError
from lloydmax.format import coding, packing, steps
from lloydmax.format.document import file_size
from lloydmax.format.parts import Parts, fills, new_document, ordinary, settings, take_apart
from lloydmax.format.record import ParameterRecord
from lloydmax.format.rounding import narrows, target
from lloydmax.format.tensor_table import DTYPES, Entry, constant
from lloydmax.network.merging import mergeable
from lloydmax.student.held import contents

if TYPE_CHECKING:
    from lloydmax.recipe.sections import Storage

_GZIP_BLOCK = 1 << 24
"""Bytes that one thread compresses."""
_THREADS = 4
"""Of gzip, which releases the interpreter lock."""

Uncompressed = tuple[Entry, Literal["constant", "float32", "as it is"]]
"""Of a tensor without a codebook: its entry, and what the document says of it."""


@dataclass(frozen=True)
class Sizes:
    """The size of one model in bytes, counted in the ways that papers count it.

    Attributes:
        original: the dense tensors in their own dtypes, tied ones once.
        packed: the file when codes have a fixed width.
        entropy_coded: the file when codes are entropy coded, wherever that is smaller.
        gzip_float32: the dense tensors as float32, through gzip at level 6.
        file: the file that :func:`lloydmax.save` writes: with packed or entropy-coded codes.
        dense: gives what ``gzip_float32`` is measured on: read from the model when asked for, so that nothing is held
            beside it.
        coded: measures ``entropy_coded``.
        codes, codebooks: of each compressed parameter in that file, by name.
    """

    original: int
    packed: int
    file: int
    dense: Callable[[], Iterable[Tensor | Codebook]] = field(repr=False, compare=False)
    coded: Callable[[], int] = field(repr=False, compare=False)
    codes: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    codebooks: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def entropy_coded(self) -> int:
        """Measured when first asked for, unless it is the file's own."""
        return self.coded()

    @cached_property
    def gzip_float32(self) -> int:
        """Measured when first asked for: it takes longer than all the rest."""
        return _gzip_size(self.dense())

    def to_dict(self) -> dict[str, int]:
        """The five sizes as plain data."""
        names = ("original", "packed", "entropy_coded", "gzip_float32", "file")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, sizes: Mapping[str, int]) -> Sizes:
        """What :meth:`to_dict` gave.

        Raises:
            KeyError: one is missing.
        """
        coded = sizes["entropy_coded"]
        made = cls(sizes["original"], sizes["packed"], sizes["file"], tuple, lambda: coded)
        made.__dict__["gzip_float32"] = sizes["gzip_float32"]
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.to_dict(), "dense": None, "coded": None, "codes": self.codes, "codebooks": self.codebooks}


def accountings(
    model: nn.Module,
    recipe: Mapping[str, Any] | None = None,
    storage: Storage | Mapping[str, str] | None = None,
    tell: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Sizes:
    """Measure a compressed model.

    Args:
        model: with at least one codebook.
        recipe: that the file keeps; absent, what the model remembers.
        storage: absent, what the model remembers.
        tell: gets the codebooks done, all of them, and ``{"coded_bytes": of the codes so far, in the file}``.

    Raises:
        CheckpointError: the model holds no codebooks, or something that no file can hold.
    """
    kept, chosen = settings(model, recipe, storage)
    parts = take_apart(model, kept, chosen)
    lengths = {name: record.packed_bytes for name, record in parts.document.parameters.items()}
    smaller, coded_bytes, together = dict[str, int](), 0, _codes(parts)
    for index, (name, most) in enumerate(list(lengths.items()), start=1):
        if chosen["codes"] != "packed" and (length := _coded(parts.codebooks[name], chosen["codes"], together)) < most:
            lengths[name] = smaller[name] = length
        coded_bytes += lengths[name]
        if tell is not None:
            tell(index, len(lengths), {"coded_bytes": float(coded_bytes)})
    values, _ = contents(model)
    entries = parts.entries(smaller)
    file, held = file_size(parts.documented(smaller), entries), {entry.name: entry.bytes for entry in entries}
    return Sizes(
        original=sum(_dense_bytes(value) for value in values.values()),
        packed=file_size(parts.document, parts.entries()) if smaller else file,
        file=file,
        dense=lambda: contents(model)[0].values(),
        coded=lambda: file if chosen["codes"] != "packed" else _coded_file(take_apart(model, kept, chosen)),
        codes=lengths,
        codebooks={name: held[f"{name}.codebook"] for name in parts.codebooks},
    )


def _coded_file(parts: Parts) -> int:
    """Bytes of the file whose codes are entropy coded, wherever that is smaller."""
    parts = replace(parts, coding="entropy")
    lengths = {name: _coded(codebook, parts.coding, _codes(parts)) for name, codebook in parts.codebooks.items()}
    smaller = {n: length for n, length in lengths.items() if length < parts.document.parameters[n].packed_bytes}
    return file_size(parts.documented(smaller), parts.entries(smaller))


def _codes(parts: Parts) -> int:
    return sum(codebook.codes.numel() for codebook in parts.codebooks.values())


def _coded(codebook: Codebook, kind: str, together: int) -> int:
    return len(coding.encode(codebook.codes, codebook.bits, kind, together))


def predicted_size(
    model: nn.Module,
    parameters: Mapping[str, ParameterRecord],
    recipe: Mapping[str, Any] | None = None,
    storage: Storage | Mapping[str, str] | None = None,
    streams: Mapping[str, int] | None = None,
    known: dict[str, Uncompressed] | None = None,
) -> int:
    """Size of the file before anything is compressed: exact but for what fitting and training change.

    Args:
        model: the uncompressed model.
        parameters: what each compressed parameter will be, by any of its names.
        recipe: that the file will keep.
        storage: as for :func:`lloydmax.save`.
        streams: expected bytes of entropy-coded codes, by the names of ``parameters``; the others count as packed.
        known: entries of tensors that stay as they are, which are the same for the same model and storage; those that
            are missing are put there.

    Raises:
        CheckpointError: a name that the model does not have, or unknown storage options.
    """
    kept, chosen = settings(model, recipe, storage)
    values, tied = contents(model)
    coded = {name: size for name, size in (streams or {}).items() if size < parameters[name].packed_bytes}
    compressed = {
        tied.get(name, name): replace(parameter, coding=chosen["codes"]) if name in coded else parameter
        for name, parameter in parameters.items()
    }
    lengths = {tied.get(name, name): size for name, size in coded.items()}
    if unknown := sorted(set(compressed) - set(values)):
        raise CheckpointError(f"the model has no parameter {unknown[0]!r}")
    document = new_document(compressed, tied, kept, model, chosen)
    stepped = chosen["floats"] == "fixed" and chosen["layout"] == "tight"
    known = {} if known is None else known
    merges = chosen["norms"] == "merged" and not known.keys() >= values.keys() - compressed.keys()
    norms = mergeable(model) if merges else {}
    entries: list[Entry] = []
    for name, value in values.items():
        if (parameter := compressed.get(name)) is not None:
            half = parameter.dtype != "bfloat16" and bool({"float16", "fixed"} & {parameter.dtype, chosen["floats"]})
            if parameter.takes_int8(chosen["codebooks"], 2 if half else 4):
                document.parameters[name] = parameter = replace(parameter, int8=True)
            codebook, codes = parameter.entries(name, "F16" if half else "F32", lengths.get(name))
            if stepped and parameter.steps and parameter.dtype != "float16":
                codebook = steps.expected_table(codebook, parameter.layout.centroids, parameter.dtype == "float32")
            entries += codebook, codes
            continue
        if name not in known:
            known[name] = _uncompressed(name, value, chosen, norms, stepped)
        entry, form = known[name]
        if form == "constant":
            document.constants[name] = entry
        elif form == "float32":
            document.floats[name] = form
        entries.append(entry)
    return file_size(document, entries)


def _uncompressed(
    name: str, value: Tensor | Codebook, chosen: Mapping[str, str], norms: Collection[str], stepped: bool
) -> Uncompressed:
    tensor, dtype = target(value, chosen)
    entry = Entry.of(name, ordinary(name, tensor))
    if (same := _constant(name, tensor, chosen, norms)) is not None:
        return same, "constant"
    if stepped and isinstance(tensor, nn.Parameter) and (expected := steps.expected(entry, tensor)) is not None:
        return expected, "as it is"
    if narrows(tensor, dtype):
        return Entry(name, DTYPES[dtype], entry.shape), "float32"
    return entry, "as it is"


def _constant(name: str, tensor: Tensor, storage: Mapping[str, str], norms: Collection[str]) -> Entry | None:
    """The entry of a tensor that will be constant in the file; ``norms`` will be merged."""
    norm, _, leaf = name.rpartition(".")
    if norm in norms and leaf in ("running_mean", "running_var"):
        return constant(name, torch.full_like(tensor, leaf == "running_var"))
    if norm in norms and leaf in ("weight", "bias"):
        return None
    return constant(name, tensor) if fills(storage) else None


def _dense_bytes(value: Tensor | Codebook) -> int:
    if isinstance(value, Codebook):
        return math.prod(value.shape) * value.centroids.element_size()
    return value.nbytes


def _gzip_size(values: Iterable[Tensor | Codebook]) -> int:
    blocks, total = _dense_blocks(values), 0
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(blocks, _THREADS)):
            total += sum(pool.map(_gzipped, batch))
    return total


def _gzipped(block: bytearray) -> int:
    return len(zlib.compress(block, 6, wbits=zlib.MAX_WBITS | 16))


def _dense_blocks(values: Iterable[Tensor | Codebook]) -> Iterator[bytearray]:
    block = bytearray()
    for value in values:
        dense = (value.dequantize() if isinstance(value, Codebook) else value).detach()
        wide = dense.to(torch.float32) if dense.is_floating_point() else dense
        data = packing.as_bytes(wide.cpu().contiguous()).data
        while data:
            room = _GZIP_BLOCK - len(block)
            block += data[:room]
            data = data[room:]
            if len(block) == _GZIP_BLOCK:
                yield block
                block = bytearray()
    if block:
        yield block
