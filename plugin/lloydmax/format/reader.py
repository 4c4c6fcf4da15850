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
from lloydmax.format import coding, compact, limits, packing, tight
from lloydmax.format.document import KEY, Document
from lloydmax.format.folder import IN_FOLDER, file_in
from lloydmax.format.record import FLOATS
from lloydmax.format.tensor_table import BY_CODE, Entry, expect, filled
from lloydmax.runtime.files import path_of, shown
from lloydmax.runtime.text import printable


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Every failure within becomes a :class:`CheckpointError` that starts with the path."""
    try:
        yield
    except (CheckpointError, OSError, SafetensorError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise CheckpointError(f"{shown(path)}: {printable(reason)}") from error


def checksum(tensor: Tensor) -> str:
    """CRC-32 of the bytes of a contiguous tensor on the CPU, as 8 hexadecimal digits."""
    return f"{zlib.crc32(packing.as_bytes(tensor).data):08x}"


class File:
    """A file that is open for reading and whose header is sound. Use as a context manager.

    Args:
        path: of the file, or of a folder that holds it, see :mod:`lloydmax.format.folder`.
        limit: bytes that it may decode to; ``None``: whatever it says.
        room: bytes that its reader expects: a table that suits so many is not too large for a small file.

    Attributes:
        document: what the metadata say.
        entries: the tensors by name.
        size: bytes of the whole file.
        decoded: bytes that its tensors take in memory, see :func:`~lloydmax.format.limits.decoded_size`.

    Raises:
        CheckpointError, OSError, SafetensorError, ValueError: see :func:`naming`, which makes them one.
    """

    def __init__(self, path: str | os.PathLike[str], limit: int | None = None, room: int = 0) -> None:
        limits.check_limit(limit)
        expected, place = max(room, limit or 0), file_in(path_of(path, CheckpointError))
        self.size, room = _guard(place, expected)
        self._data = safe_open(place, framework="pt")
        text = (self._data.metadata() or {}).get(KEY)
        if text is None:
            raise CheckpointError("is not a file of lloydmax's: nothing under 'lloydmax' in its metadata")
        limits.check_values(text, room)
        ordered = []
        for name in self._data.offset_keys():
            part = self._data.get_slice(name)
            expect(part.get_dtype() in BY_CODE, f"tensor {name!r} has the unknown dtype {part.get_dtype()}")
            ordered.append(Entry(name, part.get_dtype(), tuple(part.get_shape())))
        self._array: compact.Array | tight.Array | None = None
        if tight.is_label(text):
            self.document, ordered = self._open_tight(ordered, expected)
        elif compact.is_label(text):
            self.document, ordered = self._open_array(text, ordered, expected)
        else:
            self.document = Document.parse(text, ordered)
        self.entries = self.document.table(ordered)
        named = sorted(entry.name for entry in ordered) if self.document.crc32 else ()
        self._checksums = dict(zip(named, self.document.crc32, strict=True))
        self.decoded = limits.decoded_size(self.document, self.entries)
        limits.check_decoded(self.decoded, limit)
        limits.check_names(self.document, self.entries, max(expected, self.decoded))

    def _open_array(self, label: str, physical: list[Entry], room: int) -> tuple[Document, list[Entry]]:
        parts = {entry.name: (entry.dtype, len(entry.shape)) for entry in physical}
        wanted = {compact.CHECKSUMS: ("U32", 1), compact.DATA: ("U8", 1), compact.DOCUMENT: ("U8", 1)}
        expect(parts == wanted, "is damaged: it says that it is compact, but does not hold what such a file does")
        checksums, packed = (self._data.get_tensor(name) for name in (compact.CHECKSUMS, compact.DOCUMENT))
        expect(compact.label(checksums, packed) == label, "the document is damaged (wrong checksum)")
        data = self._data.get_tensor(compact.DATA)
        room = max(room, len(data))
        text = compact.inflate(packed, limits.header_limit(room))
        limits.check_values(text, room)
        expect(len(checksums) <= text.count("["), f"has {len(checksums)} checksums for fewer tensors")
        document, ordered = Document.parse_compact(text, [f"{item:08x}" for item in checksums.tolist()])
        self._array = compact.Array(data, ordered)
        return document, ordered

    def _open_tight(self, physical: list[Entry], room: int) -> tuple[Document, list[Entry]]:
        wanted = [(tight.DATA, "U8", 1)]
        expect(
            [(entry.name, entry.dtype, len(entry.shape)) for entry in physical] == wanted,
            "is damaged: it says that it is tight, but does not hold what such a file does",
        )
        data = self._data.get_tensor(tight.DATA).numpy()
        room = max(room, len(data))
        text, tensors = tight.opened(data, limits.header_limit(room))
        limits.check_values(text, room)
        document, ordered = Document.parse_tight(text)
        self._array = tight.Array(tensors, ordered, document.columns())
        shares = {entry.name: entry for entry in self._array.shared()}
        return document, [shares.get(entry.name, entry) for entry in ordered]

    def __enter__(self) -> File:
        self._data.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._data.__exit__(*error)

    def check_room(self) -> None:
        """Refuse codebooks that are far larger than their weights could use."""
        limits.check_codebooks(self.document, self.entries)

    def signature(self, name: str) -> tuple[object, ...]:
        """What makes two stored parameters or buffers the same: dtype, shape, and checksums."""
        parts = [f"{name}.codebook", f"{name}.codes"] if name in self.document.parameters else [name]
        about = self.document.parameters.get(name) or self.document.floats.get(name)
        entries = [self.entries[part] for part in parts]
        sums = [part.fill or self._checksums.get(part.name) or checksum(self.tensor(part.name)) for part in entries]
        return about, *((part.dtype, part.shape, one) for part, one in zip(entries, sums, strict=True))

    def tensor(self, name: str) -> Tensor:
        """One tensor, its checksum compared; it may share the memory of the mapped file, or of its elements."""
        if self.entries[name].fill is not None:
            tensor = filled(self.entries[name])
        else:
            tensor = self._array.tensor(name) if self._array else self._data.get_tensor(name)
            known = self._checksums.get(name)
            expect(known is None or checksum(tensor) == known, f"tensor {name!r} is damaged (wrong checksum)")
        truth = tensor.dtype == torch.bool and tensor.numel() > 0
        expect(not truth or int(tensor.view(torch.uint8).max()) <= 1, f"tensor {name!r} has bools other than 0 and 1")
        return tensor

    def is_finite(self, name: str) -> bool:
        """Whether a tensor, its checksum compared, is free of NaN and infinities."""
        values = self.tensor(name)
        if self.entries[name].fill is not None:
            values = values.as_strided((1,), (1,))
        if not values.numel() or not (values.is_floating_point() or values.is_complex()):
            return True
        values = torch.view_as_real(values) if values.is_complex() else values
        return _are_finite(values.float() if values.itemsize == 1 else values)

    def centroids(self, name: str) -> Tensor:
        """The codebook of a parameter in the parameter's dtype, with memory of its own; every centroid is finite."""
        parameter, rows = self.document.parameters[name], self._rows(name)
        dtype = FLOATS[parameter.dtype]
        if parameter.even:
            centroids = spread(rows, parameter.layout.centroids).view(parameter.layout.centroids_shape)
            return centroids.to(dtype)
        if parameter.int8:
            return integers.from_bytes(rows).view(parameter.layout.centroids_shape)
        return rows.to(dtype, copy=True)

    def check_centroids(self, name: str) -> None:
        """Refuse a codebook with centroids that are not finite in the parameter's dtype."""
        self._rows(name)

    def _rows(self, name: str) -> Tensor:
        """A codebook as it is stored, checked; it may share the memory of the mapped file."""
        parameter = self.document.parameters[name]
        stored = self.tensor(f"{name}.codebook")
        rows, ends = stored, stored
        if parameter.even:
            rows = stored.view(-1, 2).float()
            zero, last = rows[:, 1], parameter.layout.centroids - 1
            expect(
                bool(((zero == zero.round()) & (zero >= 0) & (zero <= last)).all()),
                f"{name!r} has no zero level",
            )
            ends = torch.cat([-zero, last - zero]) * rows[:, 0].repeat(2)
        elif parameter.int8:
            expect(integers.within(stored), f"the codebook of {name!r} has integers below -127")
            ends = integers.from_bytes(stored)
        expect(_are_finite(ends, FLOATS[parameter.dtype]), f"the codebook of {name!r} has NaN or infinite centroids")
        return rows

    def codes(self, name: str) -> Iterator[packing.Codes]:
        """The codes of a parameter in blocks, each within its codebook; nothing for codes of 0 bits."""
        parameter = self.document.parameters[name]
        layout = parameter.layout
        stream = self.tensor(f"{name}.codes").numpy()
        try:
            for block in coding.blocks(stream, parameter.coding, layout.bits, layout.code_shape):
                if layout.centroids < 1 << layout.bits and int(block.max()) >= layout.centroids:
                    raise ValueError(f"code {int(block.max())} in a codebook of {layout.centroids} centroids")
                yield block
        except ValueError as error:
            raise CheckpointError(f"the codes of {name!r} are damaged: {error}") from error


def _are_finite(values: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether all of some values, of which there is one at least, are finite, in another dtype if that is given."""
    ends = torch.stack(torch.aminmax(values))
    return bool(torch.isfinite(ends if dtype is None else ends.to(dtype)).all())


def _guard(path: Path, room: int) -> tuple[int, int]:
    """Size of a regular file whose header is neither cut off nor large enough to be an attack; and the bytes of its
    tensors, or those that there is room for, where they are more."""
    about = path.stat()
    expect(not stat.S_ISDIR(about.st_mode), f"is a directory without {IN_FOLDER}: name a compressed file or its folder")
    expect(stat.S_ISREG(about.st_mode), "is not a regular file")
    expect(about.st_size >= 8, f"is not a safetensors file ({about.st_size} bytes)")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        expect(length <= about.st_size - 8, "is cut off, or is not a safetensors file")
        room = max(room, about.st_size - 8 - length)
        limits.check_header(length, room)
        header = file.read(length)
    limits.check_values(header.decode("utf-8", "replace"), room)
    return about.st_size, room
