"""The charts of the page as Vega-Lite specifications: plain data, coloured by the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from lloydmax.choosing.rows import meaning
from lloydmax.codebook.layout import code_bits
from lloydmax.format.sizes import Sizes
from lloydmax.report.curves import DamageCurves
from lloydmax.report.figures import Figures
from lloydmax.runtime.text import percent, size

Spec = dict[str, Any]
ACCOUNTINGS = {
    "original": "Original",
    "file": "The file",
    "packed": "Fixed-width codes",
    "entropy_coded": "Entropy-coded codes",
    "gzip_float32": "gzip of float32",
}
INK, MUTED, LINE, SOFT, ACCENT, PAPER = (
    f"var(--{name})" for name in ("ink", "muted", "line", "soft", "accent", "paper")
)
_FEW = 12
"""Points up to which a curve shows each of them."""
_HEIGHT = 170
"""Of a chart, in pixels."""
_ROW = 20
"""Height of one row of bars, in pixels."""
_BYTES = "replace(format(datum.value, '~s'), /([kMG]?)$/, ' $1B')"
_CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "aria": False,
    "axis": {
        "labelColor": MUTED, "titleColor": MUTED, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
        "gridColor": LINE, "domainColor": LINE, "tickColor": LINE, "labelPadding": 6, "titlePadding": 8,
        "ticks": False, "domain": False,
    },
    "axisX": {"grid": False, "domain": True},
    "text": {"color": INK, "fontSize": 12},
    "line": {"color": ACCENT, "strokeWidth": 2},
    "point": {"color": ACCENT, "filled": True, "size": 45, "opacity": 1},
    "rule": {"color": ACCENT},
    "bar": {"color": SOFT},
}  # fmt: skip


def sizes(bytes: Sizes, most: int) -> Spec:
    """Bytes under every accounting; ``most`` is where the axis ends."""
    original = bytes.original
    rows = [
        {
            "what": label,
            "bytes": count,
            "said": size(count) + ("" if name == "original" else f", {original / count:.1f} times smaller"),
            "label": size(count),
            "main": name == "file",
        }
        for name, label in ACCOUNTINGS.items()
        for count in [bytes.to_dict()[name]]
    ]
    y = {"field": "what", "type": "nominal", "sort": None, "title": None, "axis": {"labelColor": INK}}
    x = {
        "field": "bytes",
        "type": "quantitative",
        "axis": None,
        "scale": {"domain": [0, most], "range": [0, {"expr": "width - 64"}]},
    }
    tooltip = [{"field": "what", "title": "size"}, {"field": "said", "title": "bytes"}]
    colour = {"condition": {"test": "datum.main", "value": ACCENT}, "value": SOFT}
    return _chart(
        "Size of the model under every accounting",
        30 * len(rows),
        rows,
        encoding={"y": y, "x": x, "tooltip": tooltip},
        layer=[
            {"mark": {"type": "bar", "height": 16, "cornerRadiusEnd": 3}, "encoding": {"color": colour}},
            {"mark": {"type": "text", "align": "left", "dx": 6}, "encoding": {"text": {"field": "label"}}},
        ],
    )


def stages(report: Figures, what: str, span: Sequence[float]) -> Spec:
    """Agreement (``what = "agreement"``) or the caller's score through the stages; the axis holds ``span``."""
    names, values = [], []
    for stage in report.stages[what == "agreement" :]:
        value = stage.score if what == "score" else stage.agreed
        if value is not None and math.isfinite(value):
            names.append(stage.name)
            values.append(value)
    rows = [
        {
            "stage": name,
            "value": value,
            "label": f"{value:.4g}" if what == "score" else percent(value, 1),
            "valley": value < min(values[max(0, n - 1) : n + 2], default=value) + 1e-12 and value < max(values),
        }
        for n, (name, value) in enumerate(zip(names, values, strict=True))
    ]
    low, high = min(span), max(span)
    room = (high - low) * 0.25 or abs(high) * 0.05 or 1.0
    x_axis = {"labelAngle": 0, "labelColor": INK, "labelLimit": 90, "labelOverlap": False}
    y_axis = {"format": "~%" if what == "agreement" else "~g", "tickCount": 4}
    scale = {"domain": [low - room, high + room], "nice": False}
    return _chart(
        f"{what} through the stages",
        _HEIGHT,
        rows,
        encoding={
            "x": {"field": "stage", "type": "ordinal", "sort": None, "scale": {"domain": names}, "title": None,
                  "axis": x_axis},
            "y": {"field": "value", "type": "quantitative", "title": None, "scale": scale, "axis": y_axis},
            "tooltip": [{"field": "stage"}, {"field": "label", "title": what}],
        },
        layer=[
            {"mark": "line"},
            {"mark": "point"},
            *_labels(dy={"expr": "datum.valley ? 15 : -14"}, fontWeight=600),
        ],
    )  # fmt: skip


def curve(metric: str, points: Sequence[Sequence[float]], total: int, span: Sequence[float]) -> Spec:
    """One metric of a recovery step against its steps; the axis holds ``span``."""
    share = metric.startswith("agreement")
    name = metric.translate(dict.fromkeys(map(ord, '"\\')))  # it becomes part of an expression
    low, high = min(span), max(span)
    scale: Spec = {"zero": False, "nice": True}
    if 0 < low < high / 10:
        scale = {"type": "log", "nice": True}
    elif low < high:
        scale["domain"] = [low, high]
    y_axis = {"format": "~%" if share else "~g", "tickCount": 4}
    shown: Spec = {"condition": {"param": "near", "empty": False, "value": 1}, "value": int(len(points) <= _FEW)}
    near = {"type": "point", "nearest": True, "on": "pointerover", "clear": "pointerout", "fields": ["index"]}
    return _chart(
        f"{metric} of the recovery",
        _HEIGHT,
        [{"index": index, "value": value} for index, value in points],
        encoding={
            "x": {"field": "index", "type": "quantitative", "title": "step", "scale": {"domain": [0, total]},
                  "axis": {"tickCount": 5, "tickMinStep": 1, "format": ",d"}},
            "y": {"field": "value", "type": "quantitative", "title": None, "scale": scale, "axis": y_axis},
        },
        layer=[
            {"mark": "line"},
            {
                "mark": "point",
                "params": [{"name": "near", "select": near}],
                "encoding": {
                    "opacity": shown,
                    "tooltip": [{"field": "index", "title": "step"},
                                {"field": "value", "title": name, "format": ".2%" if share else ".4g"}],
                },
            },
        ],
    )  # fmt: skip


def histogram() -> Spec:
    """Weights and centroids; the page fills in the data sets ``bins`` and ``centroids`` of the layer that is chosen."""
    scale = {"zero": False, "nice": False}
    x = {"field": "low", "type": "quantitative", "bin": {"binned": True}, "title": "weight", "scale": scale,
         "axis": {"tickCount": 6}}  # fmt: skip
    y = {
        "field": "count",
        "type": "quantitative",
        "title": "weights",
        "axis": {"tickCount": 4, "tickMinStep": 1, "format": ",d"},
    }
    said = [{"field": "low", "title": "from", "format": ".3g"}, {"field": "high", "title": "to", "format": ".3g"},
            {"field": "count", "title": "weights", "format": ",d"}]  # fmt: skip
    dense = {"condition": {"test": "datum.many", "value": 0.45}, "value": 1}
    return _chart(
        "Histogram of the weights of a layer, with its centroids",
        260,
        None,
        layer=[
            {
                "data": {"name": "bins"},
                "mark": {"type": "bar", "binSpacing": 0.5},
                "encoding": {"x": x, "x2": {"field": "high"}, "y": y, "tooltip": said},
            },
            {
                "data": {"name": "centroids"},
                "mark": {"type": "rule", "strokeWidth": 1.5},
                "encoding": {
                    "x": {"field": "value", "type": "quantitative"},
                    "y": {"value": 0},
                    "y2": {"value": "height"},
                    "opacity": dense,
                    "tooltip": [{"field": "value", "title": "centroid", "format": ".4g"}],
                },
            },
        ],
    )


def damage(curves: DamageCurves) -> Spec:
    """Damage against bytes, a line for each unit; the parameter ``shown`` names the one to show in the accent."""
    floor = min((row.damage for row in curves.rows if row.damage > 0), default=1e-9)
    rows = [
        {
            "unit": row.unit,
            "bytes": max(row.bytes, 1),
            "damage": max(row.damage, floor),
            "centroids": row.centroids,
            "by": "measured" if row.measured else "estimated",
            "chosen": curves.searched.get(row.unit) == row.centroids,
        }
        for row in curves.rows
    ]
    what = meaning(curves.rows)
    x, y = (
        span(max(value, least) for value in values)
        for values, least in (([row.bytes for row in curves.rows], 1), ([row.damage for row in curves.rows], floor))
    )
    lit = "datum.unit === shown"
    over = {"type": "point", "nearest": True, "on": "pointerover", "clear": "pointerout", "fields": ["unit"]}
    near: Spec = {"param": "near", "empty": False}
    tooltip = [{"field": "unit"}, {"field": "centroids"}, {"field": "bytes", "format": ",d"},
               {"field": "damage", "format": ".3g"}, {"field": "by", "title": "how"}]  # fmt: skip
    return _chart(
        "Damage of every layer alone against its bytes",
        360,
        rows,
        params=[{"name": "shown", "value": ""}],
        encoding={
            "x": {"field": "bytes", "type": "quantitative", "title": "bytes of codes and codebook",
                  "scale": {"type": "log", "nice": False, "domain": x},
                  "axis": {"labelExpr": _BYTES, "labelOverlap": "greedy", "labelFlush": 20,
                           "values": _round(*x)}},
            "y": {"field": "damage", "type": "quantitative", "title": what,
                  "scale": {"type": "log", "nice": False, "domain": y},
                  "axis": {"format": "~g", "values": _round(*y)}},
            "detail": {"field": "unit"},
            "tooltip": tooltip,
        },
        layer=[
            {
                "mark": {"type": "line", "strokeWidth": 1.5},
                "encoding": {
                    "color": {"condition": [near | {"value": ACCENT}, {"test": lit, "value": ACCENT}], "value": MUTED},
                    "opacity": {
                        "condition": [near | {"value": 1}, {"test": f"shown === '' || {lit}", "value": 0.7}],
                        "value": 0.25,
                    },
                },
            },
            {
                "params": [{"name": "near", "select": over}],
                "mark": {"type": "point", "tooltip": True},
                "encoding": {
                    "size": {"condition": {"test": "datum.chosen", "value": 70}, "value": 25},
                    "color": {"condition": {"test": f"shown === '' || {lit}", "value": ACCENT}, "value": MUTED},
                    "opacity": {"condition": [{"test": f"datum.chosen || {lit}", "value": 1}, near | {"value": 1}],
                                "value": 0},
                },
            },
        ],
    )  # fmt: skip


def allocation(curves: DamageCurves) -> Spec:
    """Bits of a code that the search gave every unit, and the best uniform choice as a line."""
    rows = [
        {"unit": unit, "bits": code_bits(curves.searched[unit]), "centroids": curves.searched[unit],
         "uniform": code_bits(curves.uniform[unit]) if unit in curves.uniform else None}
        for unit in curves.units()
        if unit in curves.searched
    ]  # fmt: skip
    axis = {"labelColor": INK, "labelLimit": 190}
    return _chart(
        "Bits of a code in every layer, as the search chose them",
        _ROW * len(rows) + 45,
        rows,
        encoding={
            "y": {"field": "unit", "type": "nominal", "sort": None, "title": None, "axis": axis},
            "tooltip": [{"field": "unit"}, {"field": "centroids"}, {"field": "bits"},
                        {"field": "uniform", "title": "bits, uniform"}],
        },
        layer=[
            {
                "mark": {"type": "bar", "height": 10, "color": ACCENT, "cornerRadiusEnd": 2},
                "encoding": {"x": {"field": "bits", "type": "quantitative", "title": "bits of a code",
                                   "axis": {"tickMinStep": 1, "format": "d"}}},
            },
            {
                "transform": [{"filter": "isValid(datum.uniform)"}],
                "mark": {"type": "tick", "color": INK, "thickness": 2, "height": 16},
                "encoding": {"x": {"field": "uniform", "type": "quantitative"}},
            },
        ],
    )  # fmt: skip


def _round(low: float, high: float) -> list[float]:
    """Powers of ten from ``low`` to ``high``, and where these are few their multiples by 2 and 5."""
    ends = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        found = [factor * 10.0**end for end in ends for factor in factors if low <= factor * 10.0**end <= high]
        if len(found) > _FEW // 3:
            break
    return found


def _labels(**mark: Any) -> list[Spec]:
    """Text that stays readable on top of a line."""
    text = {"text": {"field": "label"}}
    halo = {"stroke": PAPER, "strokeWidth": 4, "strokeJoin": "round"}
    return [{"mark": {"type": "text", **mark, **style}, "encoding": text} for style in (halo, {})]


def span(values: Iterable[float | None]) -> list[float]:
    """The smallest and the largest of these values that are finite, for the axes of charts that are compared."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return [min(known), max(known)] if known else []


def _chart(description: str, height: int, rows: list[dict[str, Any]] | None, **parts: Any) -> Spec:
    data = {} if rows is None else {"data": {"values": rows}}
    fit = {"type": "fit", "contains": "padding"}
    frame = {"width": "container", "height": height, "autosize": fit, "config": _CONFIG}
    return {"description": description, **frame, **data, **parts}
