"""Files inside a Qt resource file (``.rcc``)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

FOLDER, COMPRESSED = 2, 1 | 4
DATE = 8
"""Bytes that version 2 added to a node of the tree."""


def files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Path inside, and content, of every file that is stored uncompressed, as pictures are.

    Raises:
        ValueError: it is not a resource file.
    """
    content = path.read_bytes()
    if content[:4] != b"qres":
        raise ValueError(f"{path} is not a Qt resource file")
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    node = 14 + (DATE if version >= 2 else 0)

    def walk(index: int, parent: str) -> Iterator[tuple[str, bytes]]:
        place, flags, first, second = struct.unpack_from(">IHII", content, tree + index * node)
        (length,) = struct.unpack_from(">H", content, names + place)
        name = content[names + place + 6 : names + place + 6 + 2 * length].decode("utf-16-be") if index else ""
        inside = f"{parent}/{name}" if parent else name
        if flags & FOLDER:
            for child in range(second, second + first):
                yield from walk(child, inside)
        elif not flags & COMPRESSED:
            (start,) = struct.unpack_from(">I", content, tree + index * node + 10)
            (size,) = struct.unpack_from(">I", content, data + start)
            yield inside, content[data + start + 4 : data + start + 4 + size]

    yield from walk(0, "")
