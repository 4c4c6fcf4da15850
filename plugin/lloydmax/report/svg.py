"""Drawings as SVG that stand in a page: as wide as the screen, their text as large as the page's.

Across, places are in percent of the width; down, in pixels. Lines and areas lie in an inner drawing that is stretched
to the width, with strokes that are not. Colours are classes of the page's style.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from lloydmax.report.axes import Axis

_WIDE = 1000
"""Units across of what is stretched."""
_BELOW = {False: 8, True: 42}
"""Pixels below a drawing: without and with marks across."""

Point = tuple[float, float]


class Drawing:
    """One drawing.

    Args:
        title: what it shows, in a few words.
        said: what is to be seen in it, for those who cannot see it.
        height: pixels from the upper end of the drawing to its lower axis.
        left: pixels beside it for the marks or names at its left.
        x: the axis across; ``None``: there are no values across.
        y: the axis from the bottom to the top; ``None``: there are no values down.
        x_title: what the values across are.
        wide: units across of what is stretched.
    """

    def __init__(
        self, title: str, said: str, height: int, *, left: int = 0, x: Axis | None = None, y: Axis | None = None,
        x_title: str = "", wide: int = _WIDE,
    ) -> None:  # fmt: skip
        self._title, self._said, self._height, self._left, self._wide = title, said, height, left, wide
        self._x, self._y, self._x_title = x, y, x_title
        self._stretched: list[str] = []
        self._marks: list[str] = []

    def across(self, value: float) -> float:
        """The place of a value across, 0 to 1."""
        return 0.0 if self._x is None else self._x.at(value)

    def down(self, value: float) -> float:
        """The place of a value down, in pixels from the top."""
        return 0.0 if self._y is None else self._height * (1 - self._y.at(value))

    def line(self, points: Iterable[Point], kind: str, more: str = "") -> None:
        """A line through values."""
        steps = (f"{_short(self.across(x) * self._wide)} {_short(self.down(y))}" for x, y in points)
        self.path("M" + "L".join(steps), kind, more)

    def path(self, steps: str, kind: str, more: str = "") -> None:
        """A line or an area, its commands in units of what is stretched."""
        self._stretched.append(f'<path class="{kind}" d="{steps}"{more}/>')

    def dot(self, share: float, top: float, kind: str, said: str = "") -> None:
        """A point at a share of the width and pixels from the top; ``said`` appears where it is pointed at."""
        self._marks.append(f'<circle class="{kind}" cx="{_percent(share)}" cy="{_short(top)}" r="4">{_said(said)}')
        self._marks[-1] += "</circle>"

    def bar(self, share: float, top: float, height: float, kind: str, said: str = "") -> None:
        """A bar from the left to a share of the width."""
        place = f'width="{_percent(max(share, 0.002))}" y="{_short(top)}" height="{_short(height)}"'
        self._marks.append(f'<rect class="{kind}" {place} rx="2">{_said(said)}</rect>')

    def words(self, share: float, top: float, text: str, kind: str = "", dx: float = 0) -> None:
        """Text that begins at a share of the width; of the kinds ``end`` and ``middle`` it ends or lies there."""
        shift = f' dx="{_short(dx)}"' if dx else ""
        self._marks.append(f'<text class="{kind}" x="{_percent(share)}" y="{_short(top)}"{shift}>{escape(text)}</text>')

    def __str__(self) -> str:
        """The drawing as an element of a page."""
        frame = "".join(self._frame())
        inner = (
            f'<svg viewBox="0 0 {self._wide} {self._height}" preserveAspectRatio="none" width="100%" '
            f'height="{self._height}">{"".join(self._stretched)}</svg>'
        )
        below = _BELOW[self._x is not None and bool(self._x.marks)]
        style = f"height:{self._height}px;margin:8px 0 {below}px {self._left}px;width:calc(100% - {self._left}px)"
        name = escape(self._title, quote=True)
        return (
            f'<svg class="drawing" role="img" aria-label="{name}" style="{style}"><desc>{escape(self._said)}</desc>'
            f"{frame}{inner}{''.join(self._marks)}</svg>"
        )

    def _frame(self) -> Iterable[str]:
        """The axes with their marks."""
        if self._y is not None:
            for mark in self._y.marks:
                top = _short(self.down(mark))
                yield f'<line class="grid" x2="100%" y1="{top}" y2="{top}"/>'
                yield f'<text class="mark end" x="-8" y="{top}" dy="4">{escape(self._y.write(mark))}</text>'
        if self._x is None:
            return
        yield f'<line class="axis" x2="100%" y1="{self._height}" y2="{self._height}"/>'
        for mark in self._x.marks:
            share = self.across(mark)
            kind = "start" if share < 0.02 and not self._left else "end" if share > 0.96 else "middle"
            place = f'x="{_percent(share)}" y="{self._height + 17}"'
            yield f'<text class="mark {kind}" {place}>{escape(self._x.write(mark))}</text>'
        if self._x_title:
            yield f'<text class="mark middle" x="50%" y="{self._height + 35}">{escape(self._x_title)}</text>'


def _said(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _percent(share: float) -> str:
    return f"{_short(100 * share)}%"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
