"""Text and tables for a terminal, and numbers as people write them. Rich is imported with the first table.

What a file says is foreign text: :func:`printable` is where it becomes printable, in messages and in tables.
"""

from __future__ import annotations

import importlib
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lloydmax.runtime.seeding import untouched

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_WIDEST = 240
"""Characters of a rendered table at most."""
_USUAL = 80
"""Columns of a terminal, and of what is written to a file."""
_NAME = 32
"""Characters of a column of names that are worth another column."""
_LONGEST = 1000
"""Characters of foreign text that are shown."""
_CUT = " ... "


def printable(text: str, most: int = _LONGEST) -> str:
    """Foreign text as a piece of one line: what is not printable (control characters, ends of lines, marks that turn
    the direction of writing, halves of characters) is an escape such as ``\\x1b``. A long one lacks its middle.

    Args:
        text: what a file, or a name of one, says.
        most: characters of ``text`` that are shown.
    """
    if len(text) > most:
        half = (most - len(_CUT)) // 2
        text = text[:half] + _CUT + text[-half:]
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def rich(module: str) -> Any:
    """A module of rich, such as ``table``. Its first import draws from Python's global random generator, which is put
    back."""
    with untouched():
        return importlib.import_module(f"rich.{module}")


def new_table(title: str, caption: str | None = None, spare: Sequence[str] = ()) -> Table:
    """An empty table, its title on the left. Title, caption and cells may be foreign text.

    Args:
        title: above the table.
        caption: below it.
        spare: names of columns that are left out, the first one first, where the terminal is too narrow for all.
    """
    below = None if caption is None else "\n".join(map(printable, caption.split("\n")))
    made: Table = _printable_table()(title=printable(title), caption=below, title_justify="left")
    made.caption_justify = "left"
    vars(made)["spare"] = tuple(spare)
    return made


def _printable_table() -> Any:
    class PrintableTable(rich("table").Table):  # type: ignore[misc]
        def add_column(self, *header: Any, **options: Any) -> None:
            super().add_column(*header, **{"no_wrap": options.get("justify") == "right"} | options)

        def add_row(self, *cells: Any, **options: Any) -> None:
            shown = (printable(cell, _WIDEST) if isinstance(cell, str) else cell for cell in cells)
            super().add_row(*shown, **options)

    return PrintableTable


def columns() -> int:
    """Characters of a line: those of the terminal, or 80."""
    return max(1, min(shutil.get_terminal_size((_USUAL, 24)).columns, _WIDEST))


def render(*tables: RenderableType) -> str:
    """Tables as plain text, as wide as the terminal at most, where they have columns to spare. Nothing in them is read
    as markup."""
    width = columns()
    console = rich("console").Console(
        file=io.StringIO(), width=width, no_color=True, markup=False, emoji=False, highlight=False
    )
    for table in tables:
        if hasattr(table, "spare"):
            _narrow(table, width)
    console.print(*tables, sep="\n")
    text: str = console.file.getvalue()
    return "\n".join(printable(line.rstrip(), sys.maxsize) for line in text.rstrip().split("\n"))


def _narrow(table: Any, width: int) -> None:
    """Leave out columns until the others have room, and say which."""
    known, left_out = [column.header for column in table.columns], []
    for name in table.spare:
        if sum(map(_room, table.columns)) + 1 <= width:
            break
        found = [column for column in table.columns if column.header == name]
        left_out += [name] * len(found)
        table.columns = [column for column in table.columns if column not in found]
    for index, column in enumerate(table.columns):
        column._index = index
    _fold_names(table, width)
    if left_out:
        said = f"A wider terminal also shows: {', '.join(sorted(left_out, key=known.index))}"
        table.caption = said if table.caption is None else f"{table.caption}\n{said}"


def _fold_names(table: Any, width: int) -> None:
    """Break long names between their parts, where one column of them shares the width with others."""
    names = [column for column in table.columns if not column.no_wrap and column.overflow == "fold"]
    room = width - 1 - sum(_room(column) for column in table.columns if column not in names) - 3
    if len(names) == 1 and room > 0:
        names[0]._cells = [_folded(cell, room) for cell in names[0].cells]


def _folded(name: str, room: int) -> str:
    """A name in lines, which end after its dots, slashes or underscores as far as these are near enough."""
    lines = [""]
    for part in re.findall(r"[^./_]*[./_]?", name):
        if len(lines[-1]) + len(part) > room:
            lines.append("")
        lines[-1] += part
    return "\n".join(line for line in lines if line)


def _room(column: Any) -> int:
    """Characters that a column takes, with its frame: of long names some lines."""
    longest = max(len(line) for text in (column.header, *column.cells) for line in text.split("\n"))
    return 3 + (longest if column.no_wrap else min(longest, _NAME))


def paragraphs(lines: Iterable[str]) -> str:
    """Every line as an item of a list, folded for the terminal."""
    folded = textwrap.TextWrapper(columns(), initial_indent="- ", subsequent_indent="  ", break_long_words=False)
    return "\n".join(folded.fill(line.replace(" %", "\N{NO-BREAK SPACE}%")) for line in lines).replace("\xa0", " ")


def size(count: float) -> str:
    """Bytes as people write them: ``1.23 MB`` (powers of 1,000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """A time that is known roughly, in words: ``7 minutes``."""
    if seconds < 90:
        count = round(seconds) if seconds < 20 else round(seconds, -1)
        return f"{max(1, count):.0f} second{'s' * (max(1, count) != 1)}"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def counted(number: int, things: str) -> str:
    """A number of things, ``1 image`` or ``1,200 images``, from the plural."""
    return f"{number:,} {things.removesuffix('s') if number == 1 else things}"


def percent(share: float | None, digits: int = 2) -> str:
    """A share as a percentage; a dash where it was not measured."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def quoted(value: object, most: int = 100) -> str:
    """A value that somebody gave, as Python writes it, in one line; see :func:`printable`."""
    try:
        return printable(repr(value), most)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list within itself
        return f"a value of type {type(value).__name__}"
