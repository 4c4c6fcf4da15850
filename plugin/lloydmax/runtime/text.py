"""Plans, reports and files as tables in the terminal."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

_WIDEST = 240
"""Characters of a rendered table at most."""


def render(*tables: RenderableType) -> str:
    """Tables as plain text, as wide as their widest line."""
    console = Console(file=io.StringIO(), width=_WIDEST, no_color=True)
    console.print(*tables, sep="\n")
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


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
