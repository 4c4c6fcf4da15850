"""The report as one self-contained HTML page: one run, or two side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from lloydmax.errors import IntegrationError
from lloydmax.report import charts, tables
from lloydmax.report.curves import DamageCurves
from lloydmax.report.figures import Figures
from lloydmax.report.layers import LayerReport
from lloydmax.runtime.text import percent

LETTERS = "AB"
_NAMES = {"moved": "changed by", "corrected": "corrected by", "how": "way", "code_bits": "bits of a code"}
"""What steps call their figures, for readers."""


def page(reports: Sequence[Figures], curves: DamageCurves | None = None) -> str:
    """The page as HTML, which loads nothing from anywhere.

    Args:
        reports: one or two.
        curves: a sweep or search of the model.

    Raises:
        IntegrationError: the extra ``report`` is not installed.
    """
    library = _plotting_library()
    made = _Page(reports, curves)
    assets = resources.files("lloydmax.report") / "assets"
    body = "\n".join(made.sections())
    names = " and ".join(f"{report.model}, {report.recipe}" for report in reports)
    return Template((assets / "page.html").read_text("utf-8")).substitute(
        title=escape(f"{names} · lloydmax report"),
        kind="two" if made.two else "one",
        heading=made.heading(),
        body=body,
        data=_safe_json({"charts": made.charts, "layers": made.layers()}),
        css=(assets / "page.css").read_text("utf-8"),
        library=library,
        script=(assets / "page.js").read_text("utf-8"),
    )


class _Page:
    """The parts of one page, and the charts that they have used so far."""

    def __init__(self, reports: Sequence[Figures], curves: DamageCurves | None) -> None:
        self.reports, self.curves = reports, curves
        self.two = len(reports) == 2
        self.charts: list[dict[str, Any]] = []

    def heading(self) -> str:
        if not self.two:
            (report,) = self.reports
            return (
                f"<div><h1>{tables.breakable(report.model)}</h1>"
                f"<p class=lead>compressed by recipe {escape(report.recipe)}</p>{tables.key_figures(report)}</div>"
            )
        title = " and ".join(dict.fromkeys(report.model for report in self.reports))
        return f"<div><h1>{tables.breakable(title)}, two runs</h1>{tables.compared(*self.reports)}</div>"

    def sections(self) -> list[str]:
        """The sections that these reports have something for."""
        made = [self._sizes(), self._stages(), self._recovery(), self._layers(), self._weights()]
        if self.curves is not None:
            made.append(self._sweep(self.curves))
        return [*filter(None, made), self._facts()]

    def layers(self) -> list[dict[str, Any]]:
        """For each report, what the histogram of every layer needs."""
        return [
            {
                layer.name: {
                    "low": layer.weights.low,
                    "high": layer.weights.high,
                    "counts": layer.weights.counts,
                    "centroids": layer.weights.centroids,
                    "said": _drawn(layer),
                }
                for layer in report.layers
            }
            for report in self.reports
        ]

    def _sizes(self) -> str:
        most = max(report.bytes.original for report in self.reports)
        note = "The file is what is written to the disk; the others are ways in which papers count."
        return _section(
            "Size",
            note,
            self._sides(lambda report, side: self._chart(f"sizes-{side}", charts.sizes(report.bytes, most))),
        )

    def _stages(self) -> str:
        title = "Accuracy through the stages"
        agreements = charts.span(s.agreed for r in self.reports for s in r.stages)
        scores = charts.span(s.score for r in self.reports for s in r.stages)
        if not agreements and not scores and all(report.measured_on is None for report in self.reports):
            return _section(title, "Not measured: this run had no data and no evaluate.", "")

        def side(report: Figures, side: int) -> str:
            parts = []
            for what, title, span in (
                ("agreement", "Agreement with the original", agreements),
                ("score", "Your score", scores),
            ):
                if charts.span(stage.score if what == "score" else stage.agreed for stage in report.stages):
                    parts.append(self._chart(f"{what}-{side}", charts.stages(report, what, span), title))
                elif span:
                    parts.append(f"<div><h4>{title}</h4><p class=small>Not measured in this run.</p></div>")
            measured = f"<p class=small>Measured on {escape(report.measured_on)}.</p>" if report.measured_on else ""
            told = f"<p class=small>Outputs: {escape('; '.join(report.answers()))}.</p>" if report.outputs else ""
            missing = "".join(f"<p class=small>{escape(line)}.</p>" for line in report.left_out())
            exact = f"{tables.stages(report)}{tables.tokens(report)}{measured}{told}{missing}{tables.tried(report)}"
            return f"<div class=pair>{''.join(parts)}</div>{exact}"

        return _section(
            title,
            "Agreement is the share of inputs on which the compressed model answers as the original does; of outputs "
            "that do not decide, how alike they are, and of several that of the least alike.",
            self._sides(side),
        )

    def _recovery(self) -> str:
        if not any(report.recovery for report in self.reports):
            return _section("Recovery", "No recovery step ran.", "")
        curves = [_curves(report) for report in self.reports]
        spans = {
            key: charts.span(value for known in curves for _, value in known.get(key, (0, []))[1])
            for key in dict.fromkeys(key for known in curves for key in known)
        }

        def side(report: Figures, side: int) -> str:
            parts = []
            for number, step in enumerate(report.recovery):
                drawn = [
                    self._chart(
                        f"curve-{side}-{len(self.charts)}",
                        charts.curve(metric, points, total, spans[at, metric]),
                        _named(metric),
                    )
                    for (at, metric), (total, points) in curves[side].items()
                    if at == number
                ]
                figures = _figures(step)
                pair = f"<div class=pair>{''.join(drawn)}</div>" if drawn else ""
                parts.append(f"<h3>{escape(step['step'])}</h3>{figures}{pair}")
            return "".join(parts) or "<p class=small>No recovery step ran.</p>"

        return _section("Recovery", "Without labels: the student learns to answer as the original.", self._sides(side))

    def _layers(self) -> str:
        note = (
            "Select a heading to sort, a name to see its weights. SNR: how far the weights are from the original ones, "
            "after recovery; training moves them on purpose."
        )
        return _section("Layers", note, self._sides(lambda report, _: tables.layers(report, self.curves)))

    def _weights(self) -> str:
        names = dict.fromkeys(layer.name for report in self.reports for layer in report.layers)
        largest = max(self.reports[0].layers, key=lambda layer: layer.bytes, default=None)
        options = "".join(
            f"<option{' selected' if largest and name == largest.name else ''}>{escape(name)}</option>"
            for name in names
        )
        chooser = f"<label>Layer <select id=layer>{options}</select></label>"

        def side(report: Figures, side: int) -> str:
            chart = self._chart(f"histogram-{side}", charts.histogram())
            return f"{chart}<p class=small id=histogram-{side}-note></p>"

        note = "The original weights of one layer, and its centroids after recovery as lines."
        return _section("Weights and centroids", note, chooser + self._sides(side), "weights")

    def _sweep(self, curves: DamageCurves) -> str:
        options = "".join(f"<option>{escape(name)}</option>" for name in curves.units())
        chooser = f"<label>Show <select id=unit><option value=''>all layers</option>{options}</select></label>"
        chosen = f" The dots: what the search chose for {escape(curves.budget or '')}." if curves.searched else ""
        note = (
            f"What each layer alone does to the outputs, for every number of centroids, on {curves.samples:,} of "
            f"{escape(curves.measured_on)}, before recovery.{chosen}"
        )
        parts = [chooser, self._chart("damage", charts.damage(curves))]
        if curves.searched:
            uniform = " The marks: the same number of centroids for all." if curves.uniform else ""
            chart = self._chart("allocation", charts.allocation(curves))
            parts.append(f"<h3>Allocation</h3><p class=said>Bits of a code in every layer.{uniform}</p>{chart}")
        return _section("Damage against bytes", note, "".join(parts))

    def _facts(self) -> str:
        return _section("How it was made", "", self._sides(lambda report, _: tables.facts(report)))

    def _sides(self, make: Callable[[Figures, int], str]) -> str:
        """The same part of every report, beside each other."""
        made = []
        for side, report in enumerate(self.reports):
            tag = f"<h3><span class=badge>{LETTERS[side]}</span>{escape(report.recipe)}</h3>" if self.two else ""
            made.append(f"<div>{tag}{make(report, side)}</div>")
        return f"<div class=sides>{''.join(made)}</div>"

    def _chart(self, name: str, spec: charts.Spec, title: str = "") -> str:
        self.charts.append({"id": name, "spec": spec})
        heading = f"<h4>{escape(title)}</h4>" if title else ""
        label = escape(spec["description"])
        return f'<figure>{heading}<div class=chart id="{name}" role=img aria-label="{label}"></div></figure>'


def _section(title: str, note: str, body: str, name: str = "") -> str:
    anchor = f' id="{name}"' if name else ""
    said = f"<p class=note>{note}</p>" if note else "<p class=note></p>"
    return f"<section{anchor}><h2>{title}</h2>{said}{body}</section>"


def _curves(report: Figures) -> dict[tuple[int, str], tuple[int, list[list[float]]]]:
    """The curves of a report: ``{(number of the step, metric): (steps in all, [[index, value], ...])}``."""
    return {
        (number, metric): (step["history"]["total"], points)
        for number, step in enumerate(report.recovery)
        if "history" in step
        for metric, points in sorted(step["history"]["curves"].items(), reverse=True)
        if points
    }


def _figures(step: dict[str, Any]) -> str:
    """What a step said, as a list of names and values."""
    said = [
        f"<div><dt>{escape(_named(key))}</dt><dd>{escape(_written(key, value))}</dd></div>"
        for key, value in step.items()
        if key not in ("step", "history") and isinstance(value, (str, int, float))
    ]
    return f"<dl class=said>{''.join(said)}</dl>" if said else ""


def _named(figure: str) -> str:
    return _NAMES.get(figure, figure.replace("_", " "))


def _written(name: str, value: str | float) -> str:
    """A value of a step as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return percent(value, 1) if name.startswith("agreement") else f"{value:,.4g}"
    return value if isinstance(value, str) else f"{value:,}"


def _drawn(layer: LayerReport) -> str:
    weights, held = layer.weights, len(layer.weights.centroids)
    what = "values of centroids" if layer.block > 1 else "centroids" if weights.values != 1 else "centroid"
    count = f"{sum(weights.counts):,} weights"
    if held == weights.values:
        return f"{count}, {held} {what}."
    shared = "" if layer.granularity == "tensor" else f" in the codebooks of granularity {layer.granularity}"
    return f"{count}; {held} of the {weights.values:,} {what}{shared} are drawn, evenly by rank."


def _safe_json(data: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _plotting_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    try:
        import vl_convert
    except ImportError:
        raise IntegrationError('the report page needs vl-convert; run: pip install "lloydmax[report]"') from None
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed; window.vega = vega;")
    return script.replace("</script", "<\\/script")
