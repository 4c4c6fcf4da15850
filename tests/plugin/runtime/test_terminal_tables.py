"""Tables in terminals of any width: no line is longer, numbers stay whole, names break between their parts."""

from __future__ import annotations

import re

import pytest
from lloydmax.runtime.text import counted, new_table, render

NAMES = ("bert.encoder.layer.10.attention.self_output.dense.weight", "conv1.weight", "a" * 50)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_names_break_between_their_parts(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = new_table("Layers", spare=("shape", "dtype"))
    table.add_column("parameter", overflow="fold")
    for name in ("dtype", "shape", "bytes"):
        table.add_column(name, justify="right")
    for name in NAMES:
        table.add_row(name, "float32", "1024x1024x3x3", "12,345,678")
    text = render(table)
    assert max(map(len, text.splitlines())) <= width and text.count("12,345,678") == len(NAMES)
    cells = [row.split("│")[1].strip() for row in text.splitlines() if row.startswith("│")]
    assert "".join(cells) == "".join(NAMES)
    ends = [cell for cell in cells if not re.fullmatch("a+", cell) and cell not in ("weight", *NAMES)]
    assert all(cell.endswith((".", "_", "weight")) for cell in ends), cells
    left_out = [name for name in ("dtype", "shape") if name not in text.partition("A wider terminal also shows:")[0]]
    assert not left_out or f"A wider terminal also shows: {', '.join(left_out)}" in " ".join(text.split())


def test_numbers_of_things() -> None:
    assert [counted(number, "images") for number in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
