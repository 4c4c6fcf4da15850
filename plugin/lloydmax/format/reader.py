"""Reading a file: nothing that it claims is believed before it is checked.

Sizes are compared with what is really there before any memory is taken.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lloydmax.codebook import integers
from lloydmax.codebook.grid import spread
from lloydmax.errors import CheckpointError
from lloydmax.format import compact, packing
from lloydmax.format.document import KEY, Document
from lloydmax.format.tensor_table import BY_CODE, Entry, expect, filled
from lloydmax.runtime.files import path_of, shown

_MAX_HEADER = 1 << 25
"""Bytes of a header, and of an inflated document: a million tensors need less."""
_MAX_VALUES = 1 << 21
"""Commas and brackets in a header; each may cost a Python object."""
_MAX_REASON = 1000
"""Characters of a reason in a message, which may quote the file."""


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Every failure within becomes a :class:`CheckpointError` that starts with the path."""
    try:
        yield
    except (CheckpointError, OSError, SafetensorError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise CheckpointError(f"{shown(path)}: {reason[:_MAX_REASON]}") from error


def checksum(tensor: Tensor) -> str:
    """CRC-32 of the bytes of a contiguous tensor on the CPU, as 8 hexadecimal digits."""
    return f"{zlib.crc32(packing.as_bytes(tensor).data):08x}"


class File:
    """A file that is open for reading and whose header is sound. Use as a context manager.

    Attributes:
        document: what the metadata say.
        entries: the tensors by name.
        size: bytes of the whole file.

    Raises:
        CheckpointError, OSError, SafetensorError, ValueError: see :func:`naming`, which makes them one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        place = path_of(path, CheckpointError)
        self.size = _guard(place)
        self._data = safe_open(place, framework="pt")
        text = (self._data.metadata() or {}).get(KEY)
        if text is None:
            raise CheckpointError("is not a file of lloydmax's: nothing under 'lloydmax' in its metadata")
        _limit_values(text)
        ordered = []
        for name in self._data.offset_keys():
            part = self._data.get_slice(name)
            expect(part.get_dtype() in BY_CODE, f"tensor {name!r} has the unknown dtype {part.get_dtype()}")
            ordered.append(Entry(name, part.get_dtype(), tuple(part.get_shape())))
        self._array: compact.Array | None = None
        if compact.is_label(text):
            self.document, ordered = self._open_array(text, ordered)
        else:
            self.document = Document.parse(text, ordered)
        self.entries = self.document.table(ordered)
        self._checksums = dict(zip(sorted(entry.name for entry in ordered), self.document.crc32, strict=True))

    def _open_array(self, label: str, physical: list[Entry]) -> tuple[Document, list[Entry]]:
        parts = {entry.name: (entry.dtype, len(entry.shape)) for entry in physical}
        wanted = {compact.CHECKSUMS: ("U32", 1), compact.DATA: ("U8", 1), compact.DOCUMENT: ("U8", 1)}
        expect(parts == wanted, "is damaged: it says that it is compact, but does not hold what such a file does")
        checksums, packed = (self._data.get_tensor(name) for name in (compact.CHECKSUMS, compact.DOCUMENT))
        expect(compact.label(checksums, packed) == label, "the document is damaged (wrong checksum)")
        expect(len(checksums) <= _MAX_VALUES, f"has {len(checksums)} tensors; more than {_MAX_VALUES} are refused")
        text = compact.inflate(packed, _MAX_HEADER)
        _limit_values(text)
        document, ordered = Document.parse_compact(text, [f"{item:08x}" for item in checksums.tolist()])
        self._array = compact.Array(self._data.get_tensor(compact.DATA), ordered)
        return document, ordered

    def __enter__(self) -> File:
        self._data.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._data.__exit__(*error)

    def signature(self, name: str) -> tuple[object, ...]:
        """What makes two stored parameters or buffers the same: dtype, shape, and checksums."""
        parts = [f"{name}.codebook", f"{name}.codes"] if name in self.document.parameters else [name]
        about = self.document.parameters.get(name) or self.document.floats.get(name)
        entries = [self.entries[part] for part in parts]
        return about, *((part.dtype, part.shape, self._checksums.get(part.name, part.fill)) for part in entries)

    def tensor(self, name: str) -> Tensor:
        """One tensor, its checksum compared; it may share the memory of the mapped file, or of its elements."""
        if self.entries[name].fill is not None:
            return filled(self.entries[name])
        tensor: Tensor = self._array.tensor(name) if self._array else self._data.get_tensor(name)
        expect(checksum(tensor) == self._checksums[name], f"tensor {name!r} is damaged (wrong checksum)")
        return tensor

    def centroids(self, name: str) -> Tensor:
        """The codebook of a parameter; every centroid is finite."""
        parameter = self.document.parameters[name]
        stored = self.tensor(f"{name}.codebook")
        if parameter.int8:
            stored = integers.from_bytes(stored).view(parameter.layout.centroids_shape)
        expect(bool(torch.isfinite(stored).all()), f"the codebook of {name!r} has NaN or infinite centroids")
        if not parameter.even:
            return stored
        rows = stored.view(-1, 2)
        zero = rows[:, 1]
        expect(
            bool(((zero == zero.round()) & (zero >= 0) & (zero < parameter.layout.centroids)).all()),
            f"{name!r} has no zero level",
        )
        centroids = spread(rows, parameter.layout.centroids)
        return centroids[0] if parameter.layout.granularity == "tensor" else centroids

    def codes(self, name: str) -> Iterator[packing.Codes]:
        """The codes of a parameter in blocks, each within its codebook; nothing for codes of 0 bits."""
        parameter = self.document.parameters[name]
        layout = parameter.layout
        decode = packing.entropy_blocks if parameter.coding == "entropy" else packing.unpack_blocks
        try:
            for block in decode(self.tensor(f"{name}.codes").numpy(), layout.bits, layout.codes):
                if int(block.max()) >= layout.centroids:
                    raise ValueError(f"code {int(block.max())} in a codebook of {layout.centroids} centroids")
                yield block
        except ValueError as error:
            raise CheckpointError(f"the codes of {name!r} are damaged: {error}") from error


def _guard(path: Path) -> int:
    """Size of a regular file whose header is neither cut off nor large enough to be an attack."""
    about = path.stat()
    expect(not stat.S_ISDIR(about.st_mode), "is a directory")
    expect(stat.S_ISREG(about.st_mode), "is not a regular file")
    expect(about.st_size >= 8, f"is not a safetensors file ({about.st_size} bytes)")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        expect(length <= about.st_size - 8, "is cut off, or is not a safetensors file")
        expect(length <= _MAX_HEADER, f"has a header of {length} bytes; more than {_MAX_HEADER} are refused")
        header = file.read(length)
    _limit_values(header.decode("utf-8", "replace"))
    return about.st_size


def _limit_values(text: str) -> None:
    values = sum(text.count(mark) for mark in ",[{")
    expect(values <= _MAX_VALUES, f"has a header of {values} values; more than {_MAX_VALUES} are refused")
