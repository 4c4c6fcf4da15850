"""The table of layers on a page: it sorts by any heading, and several runs or files share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

from lloydmax.choosing.rows import IN_NATS, meaning
from lloydmax.report.curves import DamageCurves
from lloydmax.report.figures import Figures
from lloydmax.report.layers import LayerReport
from lloydmax.report.tables import NONE, badge, breakable, run_name

_LONG = 24
"""Layers from which the table scrolls."""


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        head: HTML.
        kind: class of its cells: ``wide`` columns are left out on a phone.
        run: whose figure it shows.
        value: of a layer: what is sorted by, and text; ``None``: it has none.
        bar: whether it shows a bar.
    """

    head: str
    kind: str
    run: int
    value: Callable[[Any], tuple[float, str] | None]
    bar: bool = False

    def filled(self, held: Mapping[str, Any]) -> bool:
        """Whether a layer has a figure for it."""
        return any(self.value(layer) is not None for layer in held.values())

    def cell(self, layer: Any, most: float) -> str:
        """Its cell for a layer, or for ``None``; ``most``: what a full bar is."""
        found = None if layer is None else self.value(layer)
        value, text = (-1.0, NONE) if found is None else found
        kind = f"{self.kind} bar".strip() if self.bar else self.kind
        style = f' style="--share:{100 * value / most:.0f}%"' if self.bar and value > 0 else ""
        return f'<td class="{kind}"{style} data-value={value:.6g}>{text}'


def sortable(held: Sequence[Mapping[str, Any]], columns: Sequence[Column], drawn: Collection[str] = ()) -> str:
    """The table.

    Args:
        held: the layers of every run by name.
        columns: after the number and the name of a layer; those without any figure are left out.
        drawn: the layers whose weights are drawn on the page, in their order there.
    """
    names = list(dict.fromkeys(name for one in held for name in one))
    shown = [column for column in columns if any(map(column.filled, held))]
    heads = [("#", "wide"), ("parameter", "word"), *((column.head, column.kind) for column in shown)]
    head = "".join(
        f'<th scope=col class="{kind}" aria-sort={"ascending" if n == 0 else "none"}>'
        f"<button type=button>{name}</button></th>"
        for n, (name, kind) in enumerate(heads)
    )
    most = max((layer.bytes for one in held for layer in one.values()), default=1) or 1
    places = {name: place for place, name in enumerate(drawn)}
    body = []
    for number, name in enumerate(names, start=1):
        place, said = "", breakable(name)
        if name in places:
            place, said = f" data-layer={places[name]}", f"<button type=button>{said}</button>"
        cells = "".join(column.cell(held[column.run].get(name), most) for column in shown)
        body.append(f"<tr{place}><td class=wide data-value={number}>{number}<td class=word>{said}{cells}")
    long = " long" if len(body) > _LONG else ""
    return (
        f'<div class="scroll layers{long}" tabindex=0 role=region aria-label="Compressed parameters">'
        f"<table class=sortable><thead><tr>{head}<tbody>{''.join(body)}</table></div>"
    )


def layers(reports: Sequence[Figures], curves: DamageCurves | None, drawn: Collection[str]) -> str:
    """Every compressed parameter of one report, or of several; with a sweep beside one the damage that it alone does.

    Args:
        reports: one or several.
        curves: the sweep.
        drawn: the layers whose weights are drawn on the page, in their order there.
    """
    made = sortable(
        [{layer.name: layer for layer in report.layers} for report in reports], _columns(reports, curves), drawn
    )
    told = "".join(
        f"<div>{run_name(run, report) if len(reports) > 1 else ''}{_told(report)}</div>"
        for run, report in enumerate(reports)
    )
    return f"{made}<div class=sides>{told}</div>"


def _columns(reports: Sequence[Figures], curves: DamageCurves | None) -> list[Column]:
    one = len(reports) == 1
    made: list[Column] = [] if not one else [Column("shape", "wide", 0, _shape)]
    for run in range(len(reports)):
        mark = "" if one else badge(run)
        made += [
            Column(f"{mark}centroids", "" if one else "wide", run, _centroids),
            Column(f"{mark}shared by", "wide", run, _shared_by),
            Column(f"{mark}bits", "wide", run, lambda layer: (layer.file_bits, f"{layer.file_bits:.3g}")),
            Column(f"{mark}bytes", "", run, lambda layer: (layer.bytes, f"{layer.bytes:,}"), bar=True),
            Column(f"{mark}error (%)", "", run, _error),
        ]
    if one and curves is not None:
        head = "KL alone" if meaning(curves.rows) == IN_NATS else "effect alone"
        made.append(Column(head, "", 0, partial(_alone, curves)))
    if one:
        made.append(Column("trained", "wide", 0, lambda layer: (layer.trained, "yes" if layer.trained else "no")))
    return made


def _shape(layer: LayerReport) -> tuple[float, str]:
    return float(math.prod(layer.shape)), " × ".join(map(str, layer.shape))


def _centroids(layer: LayerReport) -> tuple[float, str]:
    return layer.centroids, f"{layer.centroids:,}{f' × {layer.block}' if layer.block > 1 else ''}"


def _shared_by(layer: LayerReport) -> tuple[float, str] | None:
    return None if layer.granularity == "tensor" else (0, f"a {escape(layer.granularity)}")


def _error(layer: LayerReport) -> tuple[float, str]:
    share = 100 * 10 ** (-layer.snr / 20)
    return share, "exact" if share == 0 else f"{share:.2g}" if share < 10 else f"{share:.0f}"


def _alone(curves: DamageCurves, layer: LayerReport) -> tuple[float, str] | None:
    found = curves.damage(layer.name, layer.centroids)
    return None if found is None else (found, f"{found:.2g}")


def _told(report: Figures) -> str:
    """What is in the file beside the layers, what was trained, and the notes of the plan."""
    total = sum(layer.bytes for layer in report.layers)
    said = (
        f"{len(report.layers)} parameter{'s' if len(report.layers) != 1 else ''}: {total:,} bytes of codes and "
        f"centroids. With {report.others:,} bytes of all other tensors, names and checksums that is the file of "
        f"{report.bytes.file:,} bytes."
    )
    if any(layer.block > 1 for layer in report.layers):
        said += " 32 × 4: 32 centroids, each a vector of 4 weights."
    others = ""
    if report.recovery:
        trained = sum(layer.trained for layer in report.layers)
        said += f" {trained} with trained centroids; of the uncompressed parameters {len(report.trained)} were trained."
    if report.recovery and report.trained:
        names = "".join(f"<li>{escape(name)}</li>" for name in report.trained)
        others = f"<details><summary>Which ones</summary><ul class=names>{names}</ul></details>"
    notes = "".join(f"<li>{breakable(note)}</li>" for note in report.notes)
    others += f"<ul class='small notes'>{notes}</ul>" if notes else ""
    return f"<p class=small>{said}</p>{others}"
