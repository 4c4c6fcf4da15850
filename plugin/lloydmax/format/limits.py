"""What a file may cost its reader: sizes that it declares, and limits that follow from them.

Memory is at most four times the decoded size and 16 MiB, time at most 50 ns a byte of these; README.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lloydmax.format.document import Document
from lloydmax.format.record import FLOATS, ParameterRecord
from lloydmax.format.tensor_table import Entry, expect
from lloydmax.runtime.text import size

MAX_HEADER = 1 << 25
"""Bytes of a header, and of an inflated document, of any file: a million tensors need less."""
_MAX_VALUES = 1 << 21
"""Commas and brackets in a header of any file; each may cost a Python object."""
_HEADER, _VALUES, _NAMES = 1 << 22, 1 << 17, 1 << 13
"""Bytes, values and names that a file may have whatever its size."""
_LEVELS = 256
"""Centroids that an evenly spaced codebook may have for fewer codes: the levels of 8 bits."""
_FLOOR = 1 << 24
"""Bytes of codebooks for which there is always room."""
_WIDEST = 4
"""Bytes of a decoded centroid for one in a file at most, but for evenly spaced ones."""


def decoded_size(document: Document, entries: Mapping[str, Entry]) -> int:
    """Bytes that the tensors of a file take in memory: weights and centroids in the dtypes of the model, constant
    tensors in full, tied ones once.

    Args:
        document: of the file.
        entries: its tensors by name.
    """
    plain = document.plain(entries)
    return sum(
        [weight_bytes(record) + _centroid_bytes(record) for record in document.parameters.values()]
        + [plain_bytes(document, entry) for entry in plain.values()]
    )


def weight_bytes(record: ParameterRecord) -> int:
    """Bytes of a decoded weight."""
    return record.layout.weights * FLOATS[record.dtype].itemsize


def plain_bytes(document: Document, entry: Entry) -> int:
    """Bytes of another tensor in the dtype of the model."""
    return 2 * entry.size if entry.name in document.floats else entry.size


def _centroid_bytes(record: ParameterRecord) -> int:
    return record.layout.codebooks * record.layout.values * FLOATS[record.dtype].itemsize


def check_limit(limit: Any) -> None:
    """Refuse what is not a number of bytes."""
    expect(
        limit is None or (isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0),
        f"the limit is {limit!r}, not a number of bytes",
    )


def check_decoded(decoded: int, limit: int | None) -> None:
    """Refuse a file that decodes to more than was asked for."""
    expect(
        limit is None or decoded <= limit,
        f"decodes to {decoded:,} bytes, which is above the limit of {limit or 0:,}",
    )


def check_codebooks(document: Document, entries: Mapping[str, Entry]) -> None:
    """Refuse codebooks that decode to far more than they take in the file, and than their weights need.

    Evenly spaced centroids take two numbers in a file, however many they are. There is room for as many as there are
    codes, or 256, in each codebook, and for 16 MiB in all.
    """
    needed, room = 0, _FLOOR
    for name, record in document.parameters.items():
        layout, needs = record.layout, _centroid_bytes(record)
        useful = min(layout.centroids, max(_LEVELS, -(-layout.codes // layout.codebooks)))
        needed += needs
        room += max(_WIDEST * entries[f"{name}.codebook"].bytes, needs * useful // layout.centroids)
    expect(
        needed <= room,
        f"its codebooks decode to {size(needed)}, but the weights of this model could use {size(room)} of them: give "
        "a limit in bytes to load it all the same",
    )


def check_header(length: int, data: int) -> None:
    """Refuse a header, or a document, that is longer than one of a file with so much data needs.

    Args:
        length: bytes.
        data: bytes of the tensors, or that there is room for.
    """
    most = min(MAX_HEADER, header_limit(data))
    expect(length <= most, f"has a header of {length} bytes; more than {most} are refused in a file of its size")


def header_limit(data: int) -> int:
    """Bytes of a header, or of an inflated document, in a file with so much data."""
    return min(MAX_HEADER, _HEADER + data // 2)


def check_values(text: str, data: int) -> None:
    """The same for the values in it."""
    values, most = sum(text.count(mark) for mark in ",[{"), min(_MAX_VALUES, _VALUES + data // 16)
    expect(values <= most, f"has a header of {values} values; more than {most} are refused in a file of its size")


def check_names(document: Document, entries: Mapping[str, Entry], decoded: int) -> None:
    """Refuse more tensors, names and activations than one that decodes to so many bytes needs."""
    parts = (entries, document.tied, document.folded, document.activations or (), document.extra)
    names, most = sum(map(len, parts)), _NAMES + decoded // 1024
    expect(names <= most, f"has {names} tensors and names; more than {most} are refused in a file of its size")
