"""The tables of the page as HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

from lloydmax.choosing.rows import IN_NATS, meaning
from lloydmax.report.charts import LETTERS
from lloydmax.report.curves import DamageCurves
from lloydmax.report.figures import Figures
from lloydmax.report.layers import LayerReport
from lloydmax.report.tokens import TOKEN_COLUMNS, divergences_written, written
from lloydmax.runtime.text import percent, size

NONE = "–"
_LONG = 24
"""Layers from which the table scrolls."""


def key_figures(report: Figures) -> str:
    """What matters most, in large type."""
    agreement, last, first = report.alike, report.stages[-1].score, report.stages[0].score
    entries = [
        (
            "Smaller",
            f"{report.bytes.original / report.bytes.file:.1f}×",
            f"{size(report.bytes.original)} → {size(report.bytes.file)}",
        )
    ]
    if last is not None:
        entries.append(("Your score", f"{last:.4g}", f"the original {NONE if first is None else f'{first:.4g}'}"))
    if agreement.after is not None:
        compared = (
            f"with the original; {percent(agreement.before, 1)} at first" if report.recovery else "with the original"
        )
        entries.append(("Agreement", percent(agreement.after, 1), compared))
    if (perplexity := report.perplexity) is not None:
        entries.append(("Perplexity", written(perplexity.after), f"the original {written(perplexity.original)}"))
    if report.bits is not None:
        entries.append(("Bits a weight", f"{report.bits:.2f}", f"of the whole file, {report.weights:,} weights"))
    threads = report.environment.get("threads", "?")
    entries.append(
        ("Time", seconds(sum(report.seconds.values())), f"on {threads} thread{'' if threads == '1' else 's'}")
    )
    made = "".join(
        f"<div><dt>{name}</dt><dd class=big>{big}</dd><dd class=more>{escape(more)}</dd></div>"
        for name, big, more in entries
    )
    return f"<dl class=figures>{made}</dl>"


def compared(reports: Sequence[Figures]) -> str:
    """The key figures of several runs, and how the last differs where there are two."""
    rows: list[tuple[str, list[float | None], Callable[[float], str], bool]] = [
        ("Size of the file", [r.bytes.file for r in reports], size, True),
        ("Times smaller", [r.bytes.original / r.bytes.file for r in reports], lambda v: f"{v:.1f}", True),
        ("Bits a weight", [r.bits for r in reports], lambda v: f"{v:.2f}", False),
        ("Agreement", [r.alike.after for r in reports], lambda v: percent(v, 1), False),
        ("KL divergence (nats)", [r.kl.after for r in reports], lambda v: f"{v:.4f}", False),
        ("Perplexity", [_perplexity(r) for r in reports], written, False),
        ("Your score", [r.stages[-1].score for r in reports], lambda v: f"{v:.4f}", False),
        ("Time", [sum(r.seconds.values()) for r in reports], seconds, True),
    ]
    two = len(reports) == 2
    made = []
    for name, values, said, relative in rows:
        if all(value is None for value in values):
            continue
        cells = "".join(f"<td>{NONE if value is None else said(value)}</td>" for value in values)
        if two:
            cells += f"<td>{_difference(name, values[0], values[1], relative)}</td>"
        made.append(f"<tr><th scope=row class=word>{name}</th>{cells}</tr>")
    heads = "".join(f"<th scope=col>{badge(run)}{escape(r.recipe)}</th>" for run, r in enumerate(reports))
    heads += "<th scope=col>B against A</th>" if two else ""
    return (
        "<div class='scroll compared' tabindex=0 role=region aria-label='Key figures'><table><thead><tr>"
        f"<th class=word></th>{heads}</tr></thead><tbody>{''.join(made)}</tbody></table></div>"
    )


def _difference(name: str, left: float | None, right: float | None, relative: bool) -> str:
    """How the second of two values differs from the first, in words."""
    if left is None or right is None:
        return NONE
    change = right / left - 1 if relative and left else right - left
    said = f"{100 * change:+.1f} %" if relative else f"{change:+.4g}"
    if name == "Agreement":
        said = f"{100 * change:+.1f} points"
    return said.replace("-", "\N{MINUS SIGN}")


def badge(run: int) -> str:
    """The letter of a run, in its colour."""
    letter = LETTERS[run]
    return f'<span class="badge letter-{letter.lower()}">{letter}</span>'


def run_name(run: int, report: Figures) -> str:
    """The letter and the recipe of a run."""
    return f"<p class=run>{badge(run)}{escape(report.recipe)}</p>"


def stages(report: Figures) -> str:
    """Exact figures of every stage."""
    scored = any(stage.score is not None for stage in report.stages)
    rows = []
    for stage in report.stages:
        found = stage.agreement
        cells = [NONE] * 3
        if found is not None:
            cells = [percent(found.agreed), NONE if found.kl is None else f"{found.kl:.5f}", f"{found.mse:.3g}"]
        score = [f"{stage.score:.4f}" if stage.score is not None else NONE] if scored else []
        rows.append(f"<tr><th scope=row class=word>{escape(stage.name)}</th>{_cells('td', cells + score)}</tr>")
    heads = _cells(
        "th scope=col", ["agreement", "KL divergence (nats)", "squared error", *(["your score"] if scored else [])]
    )
    return (
        f"<div class='scroll stages'><table><thead><tr><th class=word scope=col>stage</th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def tokens(report: Figures) -> str:
    """Perplexity, and the spread of the divergences of single tokens; empty where the outputs are not of tokens."""
    stages = report.token_stages()
    if not stages:
        return ""
    perplexity = report.perplexity
    heads = [*(["perplexity"] if perplexity else []), *TOKEN_COLUMNS]
    each = [(name, [*([found.perplexity] if perplexity else [])], divergences_written(found)) for name, found in stages]
    if perplexity is not None:
        each.insert(0, ("original", [perplexity.original], [NONE] * len(TOKEN_COLUMNS)))
    rows = "".join(
        f"<tr><th scope=row class=word>{escape(name)}</th>{_plain('td', [*map(written, first), *others])}</tr>"
        for name, first, others in each
    )
    said = f"On {stages[-1][1].tokens:,} tokens; the KL divergence of single tokens in nats, by percentiles."
    if perplexity is not None:
        said += f" Perplexity on {perplexity.tokens:,} tokens whose label is known."
    return (
        "<h4>Tokens</h4><div class='scroll'><table><thead><tr><th class=word scope=col>stage</th>"
        f"{_plain('th scope=col', heads)}</tr></thead><tbody>{rows}</tbody></table></div><p class=small>{said}</p>"
    )


def _plain(tag: str, texts: list[str]) -> str:
    return "".join(f"<{tag}>{text}</{tag[:2]}>" for text in texts)


def _perplexity(report: Figures) -> float | None:
    found = report.perplexity
    return None if found is None else found.after


def tried(report: Figures) -> str:
    """What was compared, and what of it is in the model; empty where nothing was."""
    if not report.tried:
        return ""
    rows = "".join(
        f"<tr><th scope=row class=word>{escape(one.name)}</th>"
        f"<td>{one.what}</td><td>{one.damage:.3g}</td>"
        f"<td>{'yes' if one.kept else NONE}</td></tr>"
        for one in report.tried
    )
    return (
        "<h4>What was tried</h4><div class='scroll'><table><thead><tr><th class=word scope=col>way</th>"
        "<th scope=col></th><th scope=col>effect</th><th scope=col>kept</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        "<p class=small>The effect on the outputs, as a share of that of giving the same answer to all inputs.</p>"
    )


def _cells(tag: str, texts: list[str]) -> str:
    """A row of :func:`stages`; the third column is left out on a phone."""
    return "".join(f"<{tag}{' class=wide' if n == 2 else ''}>{text}</{tag[:2]}>" for n, text in enumerate(texts))


def layers(reports: Sequence[Figures], curves: DamageCurves | None, drawn: Collection[str]) -> str:
    """Every compressed parameter, sortable; of several runs in one table, with a sweep the damage that it alone does.

    Args:
        reports: one or several.
        curves: the sweep, shown beside one report.
        drawn: the layers whose weights are drawn on the page, in their order there.
    """
    held = [{layer.name: layer for layer in report.layers} for report in reports]
    names = list(dict.fromkeys(name for one in held for name in one))
    columns = [column for column in _columns(reports, curves) if any(map(column.filled, held))]
    heads = [("#", "wide"), ("parameter", "word"), *((column.head, column.kind) for column in columns)]
    head = "".join(
        f'<th scope=col class="{kind}" aria-sort={"ascending" if n == 0 else "none"}>'
        f"<button type=button>{name}</button></th>"
        for n, (name, kind) in enumerate(heads)
    )
    most = max((layer.bytes for one in held for layer in one.values()), default=1) or 1
    places = {name: place for place, name in enumerate(drawn)}
    body = "".join(
        f"<tr{_place(places, name)}><td class=wide data-value={number}>{number}"
        f"<td class=word>{_shown(places, name)}{''.join(column.cell(held, name, most) for column in columns)}"
        for number, name in enumerate(names, start=1)
    )
    long = " long" if len(names) > _LONG else ""
    told = "".join(
        f"<div>{run_name(run, report) if len(reports) > 1 else ''}{_told(report)}</div>"
        for run, report in enumerate(reports)
    )
    return (
        f'<div class="scroll layers{long}" tabindex=0 role=region aria-label="Compressed parameters">'
        f"<table class=sortable><thead><tr>{head}<tbody>{body}</table></div><div class=sides>{told}</div>"
    )


@dataclass(frozen=True)
class _Column:
    """A column of the table of layers.

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
    value: Callable[[LayerReport], tuple[float, str] | None]
    bar: bool = False

    def filled(self, held: dict[str, LayerReport]) -> bool:
        """Whether a layer has a figure for it."""
        return any(self.value(layer) is not None for layer in held.values())

    def cell(self, held: Sequence[dict[str, LayerReport]], name: str, most: int) -> str:
        """Its cell for a layer; ``most``: what a full bar is."""
        layer = held[self.run].get(name)
        found = None if layer is None else self.value(layer)
        value, text = (-1.0, NONE) if found is None else found
        kind = f"{self.kind} bar".strip() if self.bar else self.kind
        style = f' style="--share:{100 * value / most:.0f}%"' if self.bar and value > 0 else ""
        return f'<td class="{kind}"{style} data-value={value:.6g}>{text}'


def _columns(reports: Sequence[Figures], curves: DamageCurves | None) -> list[_Column]:
    one = len(reports) == 1
    made: list[_Column] = [] if not one else [_Column("shape", "wide", 0, _shape)]
    for run in range(len(reports)):
        mark = "" if one else badge(run)
        made += [
            _Column(f"{mark}centroids", "" if one else "wide", run, _centroids),
            _Column(f"{mark}shared by", "wide", run, _shared_by),
            _Column(f"{mark}bits", "wide", run, lambda layer: (layer.bits, f"{layer.bits:.3g}")),
            _Column(f"{mark}bytes", "", run, lambda layer: (layer.bytes, f"{layer.bytes:,}"), bar=True),
            _Column(f"{mark}error (%)", "", run, _error),
        ]
    if one and curves is not None:
        head = "KL alone" if meaning(curves.rows) == IN_NATS else "effect alone"
        made.append(_Column(head, "", 0, partial(_alone, curves)))
    if one:
        made.append(_Column("trained", "wide", 0, lambda layer: (layer.trained, "yes" if layer.trained else "no")))
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


def _place(places: Mapping[str, int], name: str) -> str:
    return f" data-layer={places[name]}" if name in places else ""


def _shown(places: Mapping[str, int], name: str) -> str:
    return f"<button type=button>{breakable(name)}</button>" if name in places else breakable(name)


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


def breakable(name: str) -> str:
    """A name of code as HTML that may break between its parts."""
    return re.sub(r"(?<=[._])(?=[^._])|(?<=[a-z])(?=[A-Z])", "<wbr>", escape(name))


def facts(report: Figures) -> str:
    """Recipe, seed, times, machine and versions."""
    times = ", ".join(f"{stage} {seconds(value)}" for stage, value in report.seconds.items())
    entries = {"recipe": report.recipe, "seed": str(report.seed), "time": times, **report.environment}
    made = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries.items())
    return f"<dl class=facts>{made}</dl>"


def seconds(value: float) -> str:
    """A duration as people write it: ``8.3 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
