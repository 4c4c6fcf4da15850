"""The charts of the page: each a drawing, with its values as a table behind it. Several runs share one axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from lloydmax.choosing.rows import Row, meaning
from lloydmax.codebook.layout import code_bits
from lloydmax.report.axes import Axis, linear, logarithmic, span
from lloydmax.report.curves import DamageCurves
from lloydmax.report.layers import Histogram
from lloydmax.report.svg import Drawing
from lloydmax.runtime.text import size

LETTERS = "ABCDEFGH"
"""Of the runs that are compared, in their order."""
_ROW, _BAR = 18, 13
"""Pixels from bar to bar, and of one."""
_NAMES = 128
"""Pixels for the names of stages."""
_TALL = 170
"""Pixels of a curve."""
_FEW = 12
"""Points up to which a curve shows each of them."""
_LISTED = 40
"""Rows of a table of values; of more values, so many are listed evenly."""

_ACROSS = 1000
"""Units across of a histogram."""

Values = Sequence[float | None]
"""One for each run; ``None`` where there is none."""
Said = Callable[[str, float], str]
"""A value as text; it gets the name of its row first."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table, the first column of which names its rows."""
    head = "".join(f"<th scope=col{'' if n else ' class=word'}>{escape(text)}" for n, text in enumerate(heads))
    body = "".join(
        f"<tr><th scope=row class=word>{escape(first)}{''.join(f'<td>{escape(text)}' for text in others)}"
        for first, *others in rows
    )
    region = "<div class=scroll tabindex=0 role=region aria-label=Values>"
    return f"{region}<table><thead><tr>{head}<tbody>{body}</table></div>"


def figure(heading: str, drawing: Drawing | str, values: str, level: int = 3) -> str:
    """A drawing under its heading, and its values behind it."""
    head = f"<h{level}>{escape(heading)}</h{level}>" if heading else ""
    behind = f"<details class=values><summary>Values</summary>{values}</details>" if values else ""
    return f"<figure>{head}{drawing}{behind}</figure>"


def bars(heading: str, title: str, rows: Sequence[tuple[str, Values]], write: Said, strong: int = -1) -> str:
    """A group of bars for each row, one for each run, under the row's name.

    Args:
        heading: above the drawing; empty for none.
        title: what it shows.
        rows: name and values, 0 or more.
        write: a value as text, which stands behind its bar; it gets the name of the row, too.
        strong: the row that stands out, where there is only one run.
    """
    runs = max((len(values) for _, values in rows), default=0)
    most = max((value for _, values in rows for value in values if value is not None), default=0) or 1
    group = 22 + runs * _ROW + 8
    drawing = Drawing(title, _spoken(rows, write), group * len(rows))
    for number, (name, values) in enumerate(rows):
        top = number * group
        drawing.words(0, top + 14, name)
        for run, value in enumerate(values):
            if value is None:
                continue
            place, share = top + 20 + run * _ROW, 0.62 * value / most
            kind = letter_class(run) if runs > 1 or number == strong else "soft"
            drawing.bar(share, place, _BAR, f"fill {kind}")
            drawing.words(share, place + 11, f"{_letter(run, runs)}{write(name, value)}", "value", dx=6)
    listed = [[name, *(_written(name, value, write) for value in values)] for name, values in rows]
    return figure(heading, drawing, table(["", *_letters(runs, "bytes" if write is of_bytes else "value")], listed))


def of_bytes(name: str, value: float) -> str:
    """Bytes as people write them."""
    return size(value)


def stages(title: str, rows: Sequence[tuple[str, Values]], write: Said, mark: Callable[[float], str]) -> str:
    """A value for each stage and run: a row for each stage, the runs' points at one axis.

    Args:
        title: what the values are.
        rows: name and values.
        write: a value as text.
        mark: one at the axis.
    """
    runs = max((len(values) for _, values in rows), default=0)
    ends = span(value for _, values in rows for value in values) or (0.0, 1.0)
    axis = linear(*ends, write=mark, most=4, room=0.12)
    tall = 20 + 18 * runs
    drawing = Drawing(title, _spoken(rows, write), tall * len(rows), left=_NAMES, x=axis)
    for number, (name, values) in enumerate(rows):
        drawing.words(0, tall * (number + 0.5) + 4, name, "end", dx=-10)
        for run, value in enumerate(values):
            if value is None or span([value]) is None:
                continue
            top, share = tall * number + 20 + 18 * run, axis.at(value)
            drawing.path(f"M0 {top}H1000", "grid")
            drawing.dot(share, top, f"fill {letter_class(run)}")
            kind, dx = ("value end", -9) if share > 0.6 else ("value", 9)
            drawing.words(share, top + 4, f"{_letter(run, runs)}{write(name, value)}", kind, dx)
    listed = [[name, *(_written(name, value, write) for value in values)] for name, values in rows]
    return figure(title, drawing, table(["stage", *_letters(runs, title)], listed))


def curves(
    heading: str, title: str, lines: Sequence[Sequence[Sequence[float]]], *, x: Axis, y: Axis, x_title: str,
    dots: bool = False,
) -> str:  # fmt: skip
    """One line for each run.

    Args:
        heading: above the drawing.
        title: what the values are.
        lines: of each run the points ``(x, y)``; empty where there are none.
        x: the axis across.
        y: the axis from the bottom to the top.
        x_title: what is across.
        dots: whether to show each point, and not only where these are few.
    """
    ends = [f"{_letter(run, len(lines))}from {y.write(line[0][1])} to {y.write(line[-1][1])}"
            for run, line in enumerate(lines) if line]  # fmt: skip
    drawing = Drawing(title, "; ".join(ends), _TALL, left=62, x=x, y=y, x_title=x_title)
    rows = []
    for run, points in enumerate(lines):
        kind = letter_class(run)
        if points:
            drawing.line(((one[0], one[1]) for one in points), f"line {kind}")
            if len(lines) > 1:
                last = points[-1]
                drawing.words(x.at(last[0]), drawing.down(last[1]) - 7, LETTERS[run], f"value end letter-{kind}")
        if dots or len(points) <= _FEW:
            for one in points:
                drawing.dot(x.at(one[0]), drawing.down(one[1]), f"fill {kind}", f"{x.write(one[0])}: {y.write(one[1])}")
        every = evenly(len(points), _LISTED)
        rows += [
            [*([LETTERS[run]] if len(lines) > 1 else []), f"{points[n][0]:,.6g}", f"{points[n][1]:.5g}"] for n in every
        ]
    heads = [*(["run"] if len(lines) > 1 else []), x_title, title]
    return figure(heading, drawing, table(heads, rows))


def histogram(title: str, weights: Histogram, low: float, high: float) -> str:
    """The distribution of the weights of one layer from ``low`` to ``high``; lines are the values that they share."""
    x = linear(low, high, lambda value: f"{value:.3g}", most=4)
    most = max(weights.counts)
    y = linear(0, most, lambda value: f"{value:,.0f}", most=3, whole=True)
    bins, tall = len(weights.counts), 150
    said = f"Most weights lie near {weights.low + (weights.counts.index(most) + 0.5) * _bin(weights):.3g}"
    drawing = Drawing(title, said, tall, left=62, x=x, y=y, x_title="weight", wide=_ACROSS)
    begin, wide = _ACROSS * x.at(weights.low), _ACROSS * (x.at(weights.high) - x.at(weights.low)) / bins
    wide = wide or _ACROSS / 50
    steps = "".join(f"V{tall - tall * y.at(count):.0f}h{wide:.4g}" for count in weights.counts)
    drawing.path(f"M{begin:.4g} {tall}{steps}V{tall}z", "fill soft")
    rules = "".join(f"M{_ACROSS * x.at(value):.4g} 0v{tall}" for value in weights.centroids)
    drawing.path(rules, "line a" + (" many" if len(weights.centroids) > 32 else ""))
    return str(drawing)


def damage(found: DamageCurves) -> str:
    """What every layer alone does to the outputs, against its bytes: a line for each layer."""
    floor = min((row.damage for row in found.rows if row.damage > 0), default=1e-9)
    across = span(max(row.bytes, 1) for row in found.rows)
    down = span(max(row.damage, floor) for row in found.rows)
    assert across is not None and down is not None
    x, y = logarithmic(*across, write=short_bytes), logarithmic(*down, write=lambda value: f"{value:g}")
    what = meaning(found.rows)
    drawing = Drawing(what, f"{len(found.units())} layers", 340, left=62, x=x, y=y, x_title="bytes of the layer")
    units: dict[str, list[Row]] = {}
    for row in found.rows:
        units.setdefault(row.unit, []).append(row)
    for number, (unit, rows) in enumerate(units.items()):
        drawing.line(
            ((max(row.bytes, 1), max(row.damage, floor)) for row in rows), "line unit", f' data-unit="{number}"'
        )
        for row in rows:
            if found.searched.get(unit) == row.centroids:
                said = f"{unit}: {row.centroids} centroids, {row.bytes:,} bytes, {row.damage:.3g}"
                drawing.dot(x.at(max(row.bytes, 1)), drawing.down(max(row.damage, floor)), "fill a", said)
    numbers = sorted({row.centroids for row in found.rows})
    known = {(row.unit, row.centroids): row for row in found.rows}
    listed = [
        [unit, *(f"{known[unit, k].damage:.2g}" if (unit, k) in known else "" for k in numbers)]
        for unit in found.units()
    ]
    return figure(what[:1].upper() + what[1:], drawing, table(["layer", *(f"{k} centroids" for k in numbers)], listed))


def allocation(found: DamageCurves) -> str:
    """Bits of a weight that the search gave every layer, and the best uniform choice beside them."""
    units = [unit for unit in found.units() if unit in found.searched]
    rows: list[tuple[str, list[float | None]]] = [
        (unit, [float(code_bits(found.searched[unit])),
                *([float(code_bits(found.uniform[unit])) if unit in found.uniform else None] if found.uniform else [])])
        for unit in units
    ]  # fmt: skip
    if len(rows) > _FEW:
        listed = [[unit, *("–" if value is None else f"{value:g}" for value in values)] for unit, values in rows]
        return table(["layer", "bits", *(["bits, the same for all"] if found.uniform else [])], listed)
    return bars("", "Bits of a weight in every layer", rows, lambda _, value: f"{value:g} bits")


def letter_class(run: int) -> str:
    """The class of the colour of a run."""
    return LETTERS[run % len(LETTERS)].lower()


def short_bytes(value: float) -> str:
    """Bytes at an axis: ``20 kB``."""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:g} {unit}"
        value /= 1000
    return f"{value:g} GB"


def evenly(count: int, most: int) -> list[int]:
    """At most so many of ``count`` places, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(n * (count - 1) / (most - 1)) for n in range(most)]


def _bin(weights: Histogram) -> float:
    return (weights.high - weights.low) / len(weights.counts)


def _letter(run: int, runs: int) -> str:
    return f"{LETTERS[run]} " if runs > 1 else ""


def _letters(runs: int, alone: str) -> list[str]:
    return list(LETTERS[:runs]) if runs > 1 else [alone]


def _written(name: str, value: float | None, write: Said) -> str:
    return "–" if value is None else write(name, value)


def _spoken(rows: Sequence[tuple[str, Values]], write: Said) -> str:
    runs = max((len(values) for _, values in rows), default=0)
    return "; ".join(
        f"{name} {', '.join(_letter(run, runs) + _written(name, value, write) for run, value in enumerate(values))}"
        for name, values in rows
    )
