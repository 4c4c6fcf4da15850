"""Text and tables for a terminal, and numbers as people write them. Rich is imported with the first table.

What a file says is foreign text: :func:`printable` is where it becomes printable, in messages and in tables.
"""

from __future__ import annotations

import importlib
import io
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lloydmax.runtime.seeding import untouched

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_WIDEST = 240
"""Characters of a rendered table at most."""
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


def new_table(title: str, caption: str | None = None) -> Table:
    """An empty table, its title on the left. Title, caption and cells may be foreign text."""
    below = None if caption is None else "\n".join(map(printable, caption.split("\n")))
    made: Table = _printable_table()(title=printable(title), caption=below, title_justify="left")
    return made


def _printable_table() -> Any:
    class PrintableTable(rich("table").Table):  # type: ignore[misc]
        def add_row(self, *cells: Any, **options: Any) -> None:
            shown = (printable(cell, _WIDEST) if isinstance(cell, str) else cell for cell in cells)
            super().add_row(*shown, **options)

    return PrintableTable


def render(*tables: RenderableType) -> str:
    """Tables as plain text, as wide as their widest line. Nothing in them is read as markup."""
    console = rich("console").Console(
        file=io.StringIO(), width=_WIDEST, no_color=True, markup=False, emoji=False, highlight=False
    )
    console.print(*tables, sep="\n")
    text: str = console.file.getvalue()
    return "\n".join(printable(line.rstrip(), sys.maxsize) for line in text.rstrip().split("\n"))


def paragraphs(lines: Iterable[str]) -> str:
    """Every line as an item of a list, folded for a terminal of 80 columns."""
    folded = textwrap.TextWrapper(80, initial_indent="- ", subsequent_indent="  ", break_long_words=False)
    return "\n".join(folded.fill(line.replace(" %", "\N{NO-BREAK SPACE}%")) for line in lines).replace("\xa0", " ")


def size(count: float) -> str:
    """Bytes as people write them: ``1.23 MB`` (powers of 1,000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError


def percent(share: float | None, digits: int = 2) -> str:
    """A share as a percentage; a dash where it was not measured."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def quoted(value: object, most: int = 100) -> str:
    """A value that somebody gave, as Python writes it, in one line; see :func:`printable`."""
    try:
        return printable(repr(value), most)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list within itself
        return f"a value of type {type(value).__name__}"
