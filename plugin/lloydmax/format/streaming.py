"""A file that is written tensor by tensor: what was added is not held in memory.

The bytes are those that :func:`lloydmax.save` writes for the same content: they wait beside the file until its header,
which comes first, can be written.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import CheckpointError
from lloydmax.format import coding, compact, packing, tight
from lloydmax.format.document import Document, file_size, header_of
from lloydmax.format.parts import entered, round_value
from lloydmax.format.steps import Steps, encode, shared
from lloydmax.format.tensor_table import Entry, file_order
from lloydmax.runtime.files import replacing

_COPIED = 1 << 24
"""Bytes that are copied at once."""


@contextmanager
def streamed(
    path: str | Path, document: Document, storage: Mapping[str, str], needed: int = 0
) -> Iterator[StreamedFile]:
    """A file to add tensors to; when the block ends it appears, whole or not at all.

    Args:
        path: of the file.
        document: without tensors; those that are added are entered.
        storage: all options.
        needed: bytes that it will have, nearly.

    Raises:
        OutputError: see :func:`~lloydmax.runtime.files.replacing`. CheckpointError: no codebook was added.
    """
    with replacing(path, 2 * needed) as temporary, (temporary.parent / "parts").open("w+b") as parts:
        file = StreamedFile(document, storage, parts)
        yield file
        with temporary.open("wb") as made:
            file.finish(made)


class StreamedFile:
    """See :func:`streamed`.

    Args:
        document, storage: see there.
        parts: where the bytes wait.
    """

    def __init__(self, document: Document, storage: Mapping[str, str], parts: IO[bytes]) -> None:
        self._document, self._storage, self._parts = document, storage, parts
        self._entries: dict[str, Entry] = {}
        self._places: dict[str, int] = {}
        self._checksums: dict[str, str] = {}
        self._steps: dict[str, tuple[Entry, Steps]] = {}
        self._coded: set[str] = set()
        self._together = sum(record.layout.codes for record in document.parameters.values())

    @torch.no_grad()
    def add(self, name: str, value: Tensor | Codebook) -> None:
        """Add a parameter or buffer under its first name.

        Args:
            name: of it.
            value: rounded in place to what the file holds.

        Raises:
            CheckpointError: no file can hold it.
        """
        round_value(value, self._storage)
        kept = entered(self._document, name, value, self._storage)
        if isinstance(value, Codebook):
            stream, coded = coding.stream(value.codes, value.bits, self._storage["codes"], self._together)
            self._coded |= {name} if coded else set()
            self._put(f"{name}.codes", torch.from_numpy(stream))
            name = f"{name}.codebook"
        if kept is not None:
            tensor, steps = kept
            if steps is None:
                self._put(name, tensor)
            else:
                self._steps[name] = Entry.of(name, tensor), steps

    def _put(self, name: str, tensor: Tensor) -> None:
        data = packing.as_bytes(tensor.cpu().contiguous()).data
        self._entries[name], self._places[name] = Entry.of(name, tensor), self._parts.tell()
        self._checksums[name] = f"{zlib.crc32(data):08x}"
        self._parts.write(data)

    def size(self) -> int:
        """Bytes of the file as it is so far."""
        document, entries, _ = self._described()
        return file_size(document, entries)

    def _described(self) -> tuple[Document, list[Entry], bytes]:
        parameters = {
            name: replace(record, coding=self._storage["codes"]) if name in self._coded else record
            for name, record in self._document.parameters.items()
        }
        named = sorted(self._checksums) if self._document.layout != "tight" else ()
        checksums = tuple(self._checksums[name] for name in named)
        document = replace(self._document, parameters=parameters, crc32=checksums)
        stepped = file_order(entry for entry, _ in self._steps.values())
        stream = encode(self._steps[entry.name][1] for entry in stepped) if stepped else b""
        entries = [*self._entries.values(), *shared(stepped, len(stream)), *document.constants.values()]
        return document, entries, stream

    def finish(self, made: IO[bytes]) -> None:
        """Write the file."""
        document, entries, stream = self._described()
        if not document.parameters:
            raise CheckpointError("no parameter has a codebook: nothing to compress")
        checksums = document.crc32
        document.check({entry.name: entry for entry in entries})
        text, ordered = document.text(entries), file_order(self._entries.values())
        before, after, seen = b"", b"", ordered
        if document.layout == "compact":
            first, last = compact.ends(text, checksums)
            before, after = (bytes(packing.as_bytes(end)) for end in (first, last))
            _, seen = compact.table(text, ordered)
            text = compact.label(first, last)
        elif document.layout == "tight":
            before = tight.head(text)
            text, seen = tight.table(text, entries)
        header = header_of(text, seen)
        made.write(len(header).to_bytes(8, "little") + header + before)
        crc32 = 0
        for entry in ordered:
            self._parts.seek(self._places[entry.name])
            left = entry.bytes
            while left:
                piece = self._parts.read(min(left, _COPIED))
                made.write(piece)
                crc32 = zlib.crc32(piece, crc32)
                left -= len(piece)
        if document.layout == "tight":
            after = stream + tight.tail(zlib.crc32(stream, crc32))
        made.write(after)
