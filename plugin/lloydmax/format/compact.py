"""The compact layout: all tensors end to end in one array, and a deflated document that tells them apart.

A file of many small layers would otherwise spend more on their names than on their batch norms. To the safetensors
library it holds three tensors: ``checksums`` (uint32, one for each tensor, in ascending order of the names), ``data``
and ``document`` (uint8). The metadata are a label with the checksum of the first and the last.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from lloydmax.errors import CheckpointError
from lloydmax.format.packing import as_bytes
from lloydmax.format.tensor_table import BY_CODE, Entry, expect, file_order

CHECKSUMS, DATA, DOCUMENT = "checksums", "data", "document"
_LABEL = '{{"crc32":"{:08x}","format":2}}'
_MATCH = re.compile(r'\{"crc32":"[0-9a-f]{8}","format":2\}')


def label(checksums: Tensor, document: Tensor) -> str:
    """The metadata of a compact file."""
    return _LABEL.format(zlib.crc32(as_bytes(document).data, zlib.crc32(as_bytes(checksums).data)))


def is_label(text: str) -> bool:
    """Whether these metadata are those of a compact file."""
    return _MATCH.fullmatch(text) is not None


def deflate(text: str) -> bytes:
    """A document as a raw deflate stream."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    return stream.compress(text.encode()) + stream.flush()


def inflate(data: Tensor, limit: int) -> str:
    """The reverse.

    Raises:
        CheckpointError: the stream is damaged, or has more than ``limit`` bytes.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        text = stream.decompress(as_bytes(data).data, limit)
        expect(stream.eof and not stream.unused_data, f"has a damaged document, or one of more than {limit} bytes")
        return text.decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"the document is damaged ({error})") from error


def table(text: str, entries: Iterable[Entry]) -> tuple[str, list[Entry]]:
    """The metadata (of this length) and the tensors of a file as the safetensors library sees them."""
    held = [entry.bytes for entry in entries if entry.fill is None]
    physical = [
        Entry(CHECKSUMS, "U32", (len(held),)),
        Entry(DATA, "U8", (sum(held),)),
        Entry(DOCUMENT, "U8", (len(deflate(text)),)),
    ]
    return _LABEL.format(0), physical


def written(
    text: str, entries: Iterable[Entry], tensors: Mapping[str, Tensor], crc32: Iterable[str]
) -> tuple[dict[str, Tensor], str]:
    """The tensors and the metadata of a file.

    Args:
        text: of the document.
        entries: of the tensors.
        tensors: on the CPU, contiguous.
        crc32: their checksums, in ascending order of the names.
    """
    ordered = file_order(entry for entry in entries if entry.fill is None)
    parts = [as_bytes(tensors[entry.name]) for entry in ordered]
    checksums, document = ends(text, crc32)
    data = torch.from_numpy(np.concatenate(parts))
    return {CHECKSUMS: checksums, DATA: data, DOCUMENT: document}, label(checksums, document)


def ends(text: str, crc32: Iterable[str]) -> tuple[Tensor, Tensor]:
    """What comes before the data, and after them: checksums and document."""
    document = torch.frombuffer(bytearray(deflate(text)), dtype=torch.uint8)
    return torch.from_numpy(np.array([int(item, 16) for item in crc32], np.uint32)), document


class Array:
    """``data``, read tensor by tensor.

    Args:
        data: of the file.
        ordered: the entries in the order in which they are in it.

    Raises:
        CheckpointError: they take more or fewer bytes than it has.
    """

    def __init__(self, data: Tensor, ordered: Iterable[Entry]) -> None:
        self._data, self._places = data, dict[str, tuple[int, Entry]]()
        end = 0
        for entry in ordered:
            self._places[entry.name] = end, entry
            end += entry.bytes
        expect(end == len(data), f"its tensors take {end} bytes, it has {len(data)}")

    def tensor(self, name: str) -> Tensor:
        """One tensor; bytes share the memory of ``data``."""
        start, entry = self._places[name]
        part = self._data[start : start + entry.bytes]
        dtype = BY_CODE[entry.dtype]
        return (part.clone().view(dtype) if dtype.itemsize > 1 else part.view(dtype)).view(entry.shape)
