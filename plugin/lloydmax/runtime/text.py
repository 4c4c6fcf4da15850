"""Tables in the terminal, and numbers as people write them. Rich is imported with the first table."""

from __future__ import annotations

import importlib
import io
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lloydmax.runtime.seeding import untouched

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_WIDEST = 240
"""Characters of a rendered table at most."""


def rich(module: str) -> Any:
    """A module of rich, such as ``table``. Its first import draws from Python's global random generator, which is put
    back."""
    with untouched():
        return importlib.import_module(f"rich.{module}")


def printable(text: str, most: int = 100) -> str:
    """Text of strangers for a message: one line, no control characters, nothing that turns the direction of writing,
    and at most ``most`` characters, the last an ellipsis where it goes on."""
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def new_table(title: str, caption: str | None = None) -> Table:
    """An empty table, its title on the left."""
    made: Table = rich("table").Table(title=title, caption=caption, title_justify="left")
    return made


def render(*tables: RenderableType) -> str:
    """Tables as plain text, as wide as their widest line."""
    console = rich("console").Console(file=io.StringIO(), width=_WIDEST, no_color=True)
    console.print(*tables, sep="\n")
    text: str = console.file.getvalue()
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


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
