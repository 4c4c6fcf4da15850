"""The report as one self-contained HTML page: one run, or several whose charts share their axes."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from lloydmax.errors import PluginError
from lloydmax.hooks import registry
from lloydmax.report import charts, tables
from lloydmax.report.axes import linear, logarithmic, span
from lloydmax.report.curves import DamageCurves
from lloydmax.report.figures import Figures
from lloydmax.report.layer_table import layers
from lloydmax.report.layers import LayerReport
from lloydmax.runtime.text import percent

_ACCOUNTINGS = {
    "original": "The original",
    "file": "The file",
    "packed": "Without entropy coding",
    "entropy_coded": "With entropy coding",
    "gzip_float32": "gzip of the decoded weights",
}
_NAMES = {"moved": "changed by, in standard deviations",
          "corrected": "corrected by, in standard deviations", "how": "way", "held_out_samples": "inputs held out",
          "samples": "inputs", "teacher_runs": "the original runs", "code_bits": "bits of a weight"}  # fmt: skip
"""What steps call their figures, for readers."""
MOST = 64
"""Layers whose weights are drawn."""


def document(title: str, kind: str, heading: str, sections: Sequence[str]) -> str:
    """A page as HTML, which loads nothing from anywhere.

    Args:
        title: as text.
        kind: class of the body: ``one`` or ``several``.
        heading: HTML of its top.
        sections: HTML of each section.
    """
    assets = resources.files("lloydmax.report") / "assets"
    return Template((assets / "page.html").read_text("utf-8")).substitute(
        title=escape(f"{title} · lloydmax report"),
        kind=kind,
        heading=heading,
        body="\n".join(sections),
        css=(assets / "page.css").read_text("utf-8"),
        script=(assets / "page.js").read_text("utf-8"),
    )


def page(reports: Sequence[Figures], curves: DamageCurves | None = None) -> str:
    """The page of one report or several, as HTML.

    Args:
        reports: at least one, at most :data:`charts.LETTERS`.
        curves: a sweep or search of the model.
    """
    made = _Page(reports, curves)
    names = " and ".join(f"{report.model}, {report.recipe}" for report in reports)
    return document(names, "several" if made.several else "one", made.heading(), made.sections())


def section(title: str, note: str, body: str, name: str = "") -> str:
    """A section under its heading; ``note`` is HTML."""
    anchor = f' id="{name}"' if name else ""
    return f"<section{anchor}><h2>{title}</h2><p class=note>{note}</p>{body}</section>"


class _Page:
    """The parts of one page."""

    def __init__(self, reports: Sequence[Figures], curves: DamageCurves | None) -> None:
        self.reports, self.curves = reports, curves
        self.several = len(reports) > 1

    def heading(self) -> str:
        """Title and key figures."""
        if not self.several:
            (report,) = self.reports
            return (
                f"<div><h1>{tables.breakable(report.model)}</h1>"
                f"<p class=lead>compressed by recipe {escape(report.recipe)}</p>{tables.key_figures(report)}</div>"
            )
        title = " and ".join(dict.fromkeys(report.model for report in self.reports))
        count = {2: "two"}.get(len(self.reports), len(self.reports))
        return f"<div><h1>{tables.breakable(title)}, {count} runs</h1>{tables.compared(self.reports)}</div>"

    def sections(self) -> list[str]:
        """The sections that these reports have something for."""
        made = [self._sizes(), self._stages(), self._recovery(), self._layers(), self._weights()]
        if self.curves is not None:
            made.append(_sweep(self.curves))
        return [*filter(None, made), self._facts()]

    def _sizes(self) -> str:
        counted = [report.bytes.to_dict() for report in self.reports]
        original = self.reports[0].bytes.original

        def said(name: str, value: float) -> str:
            smaller = (
                f", {original / value:.1f}× smaller" if name != _ACCOUNTINGS["original"] and not self.several else ""
            )
            return charts.of_bytes(name, value) + smaller

        rows = [(label, [one[name] for one in counted]) for name, label in _ACCOUNTINGS.items()]
        note = "The file is what is written to the disk. The others are ways in which papers count."
        return section("Size", note, charts.bars("", "Size of the model, counted in several ways", rows, said, 1))

    def _stages(self) -> str:
        title = "Accuracy through the stages"
        drawn = [
            charts.stages(heading, rows, write, mark)
            for heading, rows, write, mark in (
                ("Agreement with the original", self._rows(lambda s: s.agreed, 1), lambda _, v: percent(v, 1), _share),
                ("Your score", self._rows(lambda s: s.score, 0), lambda _, v: f"{v:.4g}", lambda v: f"{v:.4g}"),
            )
            if span(value for _, values in rows for value in values)
        ]
        if not drawn and all(report.measured_on is None for report in self.reports):
            return section(title, "Not measured: this run had no data and no evaluate.", "")

        def side(report: Figures) -> str:
            if report.measured_on is None and report.stages[0].score is None:
                return "<p class=small>Not measured in this run.</p>"
            measured = f"<p class=small>Measured on {escape(report.measured_on)}.</p>" if report.measured_on else ""
            told = f"<p class=small>Outputs: {escape('; '.join(report.answers()))}.</p>" if report.outputs else ""
            missing = "".join(f"<p class=small>{escape(line)}.</p>" for line in report.left_out())
            return f"{tables.stages(report)}{tables.tokens(report)}{measured}{told}{missing}{tables.tried(report)}"

        return section(
            title,
            "Agreement is the share of inputs on which the compressed model answers as the original does. Where "
            "outputs do not decide, it is how alike they are; of several outputs, that of the least alike.",
            f"<div class=pair>{''.join(drawn)}</div>{self._sides(side)}",
        )

    def _rows(self, value: Callable[[Any], float | None], first: int) -> list[tuple[str, list[float | None]]]:
        """A row for each stage of any run, in their order, with its value in every run."""
        held = [dict(_counted((s.name, value(s)) for s in report.stages[first:])) for report in self.reports]
        names: list[str] = []
        for one in held:  # a stage that only later runs have comes after the one before it there
            for at, name in enumerate(one):
                if name not in names:
                    before = list(one)[at - 1] if at else None
                    names.insert(names.index(before) + 1 if before is not None else 0, name)
        return [(name, [one.get(name) for one in held]) for name in names]

    def _recovery(self) -> str:
        title = "Winning accuracy back"
        if not any(report.recovery for report in self.reports):
            return section(title, "No step ran.", "")
        steps = [dict(_counted((step["step"], step) for step in report.recovery)) for report in self.reports]
        parts = []
        for name in dict.fromkeys(name for each in steps for name in each):
            held = [each.get(name) for each in steps]
            figures = "".join(
                f"<div>{self._badge(run)}{_figures(step)}</div>" for run, step in enumerate(held) if step is not None
            )
            drawn = "".join(_curves(held))
            said = _what_it_does(name.partition(" (")[0])
            pair = f"<div class=pair>{drawn}</div>" if drawn else ""
            parts.append(f"<h3>{escape(name)}</h3>{said}<div class=sides>{figures}</div>{pair}")
        note = "Without labels: the compressed model learns to answer as the original does."
        return section(title, note, "".join(parts))

    def _layers(self) -> str:
        note = (
            "Select a heading to sort, a name to see its weights. Centroids are the values that the weights of a layer "
            "share; bits are those of the file for one weight. Error: how far the weights are from the original ones, "
            "as a share of their size; training may move weights away so that answers come closer."
        )
        made = layers(self.reports, self.curves, drawn=self._drawn())
        return section("Layers", note, made)

    def _drawn(self) -> list[str]:
        """The layers whose weights are drawn: all, or the largest ones, in forward order."""
        largest: Counter[str] = Counter()
        for report in self.reports:
            for layer in report.layers:
                largest[layer.name] = max(largest[layer.name], layer.bytes)
        chosen = {name for name, _ in largest.most_common(MOST)}
        return [name for name in largest if name in chosen]

    def _weights(self) -> str:
        held = [{layer.name: layer for layer in report.layers} for report in self.reports]
        names = self._drawn()
        if not names:
            return ""
        largest = max(names, key=lambda name: max(one[name].bytes for one in held if name in one))
        options, drawn = "", ""
        for number, name in enumerate(names):
            options += f"<option value={number}{' selected' if name == largest else ''}>{escape(name)}</option>"
            found = [one.get(name) for one in held]
            ends = span(end for one in found if one is not None for end in _ends(one)) or (0.0, 1.0)
            sides = "".join(
                f"<div>{self._badge(run)}{'' if one is None else charts.histogram(name, one.weights, *ends)}"
                f"<p class=small>{'Not compressed in this run.' if one is None else _drawn(one)}</p></div>"
                for run, one in enumerate(found)
            )
            drawn += (
                f"<figure class=layer data-shown={number}><h3 class=word>{tables.breakable(name)}</h3>{sides}</figure>"
            )
        count = len({name for one in held for name in one})
        some = f" Drawn are the {len(names)} largest of {count} layers." if count > len(names) else ""
        note = f"The original weights of one layer; the lines are the values that they share in the file.{some}"
        chooser = f"<label>Layer <select id=layer>{options}</select></label>"
        return section("Weights of a layer", note, chooser + drawn, "weights")

    def _facts(self) -> str:
        return section("How it was made", "", self._sides(tables.facts))

    def _badge(self, run: int) -> str:
        return tables.run_name(run, self.reports[run]) if self.several else ""

    def _sides(self, make: Callable[[Figures], str]) -> str:
        """The same part of every report, beside each other."""
        made = "".join(f"<div>{self._badge(run)}{make(report)}</div>" for run, report in enumerate(self.reports))
        return f"<div class=sides>{made}</div>"


def _sweep(curves: DamageCurves) -> str:
    options = "".join(f"<option value={n}>{escape(name)}</option>" for n, name in enumerate(curves.units()))
    chooser = f"<label>Show <select id=unit><option value=''>all layers</option>{options}</select></label>"
    chosen = f" The dots: what the search chose for {escape(curves.budget or '')}." if curves.searched else ""
    note = (
        f"What compressing each layer alone does to the outputs, for every number of centroids, on {curves.samples:,} "
        f"of {escape(curves.measured_on)}.{chosen}"
    )
    parts = [chooser, charts.damage(curves)]
    if curves.searched:
        uniform = " A: as chosen. B: the same number of centroids for all." if curves.uniform else ""
        said = f"<p class=said>How many bits a weight of each layer takes.{uniform}</p>"
        parts.append(f"<h3>What the search chose</h3>{said}{charts.allocation(curves)}")
    return section("Layers one at a time", note, "".join(parts))


def _counted(named: Any) -> list[tuple[str, Any]]:
    """Pairs of names and values; a name that comes again gets its number: ``distill (2)``."""
    seen: Counter[str] = Counter()
    made = []
    for name, value in named:
        seen[name] += 1
        made.append((name if seen[name] == 1 else f"{name} ({seen[name]})", value))
    return made


def _curves(steps: Sequence[dict[str, Any] | None]) -> list[str]:
    """The curves of one step, those of all runs in one chart."""
    histories = [{} if step is None else step.get("history", {}) for step in steps]
    held = [history.get("curves", {}) for history in histories]
    total = max((history.get("total", 0) for history in histories), default=0)
    drawn = []
    for metric in sorted({name for each in held for name in each}, reverse=True):
        lines = [[p for p in each.get(metric, []) if span(p) and span(p[1:])] for each in held]
        ends = span(value for points in lines for _, value in points)
        first_last = span(index for points in lines for index, _ in points)
        if ends is None or first_last is None:
            continue
        share = metric.startswith("agreement")
        x = linear(0, max(total, first_last[1], 1), lambda value: f"{value:,.0f}", whole=True)
        y = linear(*ends, write=_share if share else lambda v: f"{v:.4g}", most=4)
        if 0 < ends[0] < ends[1] / 10:
            y = logarithmic(*ends, write=lambda value: f"{value:.4g}")
        drawn.append(charts.curves(named(metric), named(metric), lines, x=x, y=y, x_title="step"))
    return drawn


def _share(value: float) -> str:
    """A share at an axis."""
    return f"{100 * value:.4g} %"


def _what_it_does(step: str) -> str:
    """The first sentence of what a step's class says; empty where it is not installed."""
    try:
        text = inspect.cleandoc(registry.find("step", step).cls.__doc__ or "")
    except PluginError:
        return ""
    first = re.sub(r"\s*\([^()]*\d{4}\)", "", text.partition("\n\n")[0].replace("\n", " "))
    return f"<p class=said>{escape(first.replace('``', '').replace('`', ''))}</p>"


def _figures(step: dict[str, Any]) -> str:
    """What a step said, as a list of names and values."""
    said = [
        f"<div><dt>{escape(named(key))}</dt><dd>{escape(_written(key, value))}</dd></div>"
        for key, value in step.items()
        if key not in ("step", "history") and isinstance(value, (str, int, float))
    ]
    return f"<dl class=said>{''.join(said)}</dl>" if said else ""


def named(figure: str) -> str:
    """The name of a figure for readers."""
    return _NAMES.get(figure, figure.replace("_", " "))


def _written(name: str, value: str | float) -> str:
    """A value of a step as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return percent(value, 1) if name.startswith("agreement") else f"{value:,.4g}"
    return value if isinstance(value, str) else f"{value:,}"


def _ends(layer: LayerReport) -> tuple[float, ...]:
    return layer.weights.low, layer.weights.high, *layer.weights.centroids[:1], *layer.weights.centroids[-1:]


def _drawn(layer: LayerReport) -> str:
    """A histogram in words."""
    weights, held = layer.weights, len(layer.weights.centroids)
    what = "values of centroids" if layer.block > 1 else "centroids" if weights.values != 1 else "centroid"
    count = f"{sum(weights.counts):,} weights from {weights.low:.3g} to {weights.high:.3g}"
    few = f": {', '.join(f'{value:.3g}' for value in weights.centroids)}" if held <= 16 else ""
    if held == weights.values:
        return f"{count}, {held} {what}{few}."
    shared = "" if layer.granularity == "tensor" else ", of all parts that have their own"
    return f"{count}; {held} of the {weights.values:,} {what}{shared} are drawn, evenly by rank."
