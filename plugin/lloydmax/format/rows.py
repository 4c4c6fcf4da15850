"""Tensors as the document of a file tells them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from lloydmax.format.record import MAX_DIMENSIONS
from lloydmax.format.tensor_table import BY_CODE, Entry, expect, file_order

STEPS, STEPPED = "steps", ("F32", "F16", "BF16")
"""What is said of a tensor in steps, and the dtypes of those that may be, see :mod:`lloydmax.format.steps`."""


def row(entry: Entry) -> list[Any]:
    """What the document says of a tensor."""
    more = [] if entry.fill is None else [entry.fill]
    return [entry.name, entry.dtype, list(entry.shape), *more, *([] if entry.coded is None else [STEPS])]


def rows_of(value: dict[str, Any], steps: bool = False) -> list[Entry]:
    """The table of tensors of a document, taken out of it; its rows are in order, and may be in steps if ``steps``."""
    rows = value.pop("tensors", None)
    expect(isinstance(rows, list) and "crc32" not in value, "tensors is not a list")
    ordered = [_entry(row, steps) for row in rows]
    expect(ordered == file_order(ordered), "tensors are not in order")
    expect(len({entry.name for entry in ordered}) == len(ordered), "a tensor is there twice")
    return ordered


def _entry(row: Any, steps: bool = False) -> Entry:
    stepped = steps and isinstance(row, list) and row[3:] == [STEPS]
    row = row[:3] if stepped else row
    expect(isinstance(row, list) and len(row) == 3 and isinstance(row[0], str), "tensors are not rows")
    name, dtype, shape = row
    expect(not stepped or dtype in STEPPED, f"tensor {name[:100]!r} is not of a dtype for steps")
    expect(isinstance(dtype, str) and dtype in BY_CODE, f"tensor {name[:100]!r} has an unknown dtype")
    expect(
        isinstance(shape, list)
        and len(shape) <= MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size < 1 << 63 for size in shape)
        and math.prod(shape) * BY_CODE[dtype].itemsize < 1 << 63,
        f"tensor {name[:100]!r} has no shape",
    )
    return Entry(name, dtype, tuple(shape), coded=0 if stepped else None)


def constant_of(name: str, row: Any) -> Entry:
    """The reverse for a constant tensor, whose name is said elsewhere."""
    expect(isinstance(row, list) and len(row) == 3, "constants are not rows")
    entry = _entry([name, *row[:2]])
    digits = 2 * BY_CODE[entry.dtype].itemsize
    expect(
        isinstance(row[2], str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", row[2]) is not None and entry.size > 0,
        f"constant {name[:100]!r} has no value",
    )
    expect(entry.dtype != "BOOL" or row[2] in ("00", "01"), f"constant {name[:100]!r} has no value")
    return replace(entry, fill=row[2])
