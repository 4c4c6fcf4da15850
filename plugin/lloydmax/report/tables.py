"""The tables of the page as HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from html import escape

from lloydmax.choosing.rows import IN_NATS, meaning
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
        compared = f"{percent(agreement.before, 1)} before recovery" if report.recovery else "no recovery step ran"
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


def compared(a: Figures, b: Figures) -> str:
    """The key figures of two runs, and how the second differs."""
    rows: list[tuple[str, float | None, float | None, Callable[[float], str], bool]] = [
        ("Size of the file", a.bytes.file, b.bytes.file, size, True),
        ("Times smaller", a.bytes.original / a.bytes.file, b.bytes.original / b.bytes.file, lambda v: f"{v:.1f}", True),
        ("Bits a weight", a.bits, b.bits, lambda v: f"{v:.2f}", False),
        ("Agreement", a.alike.after, b.alike.after, lambda v: percent(v, 1), False),
        ("KL to the original (nats)", a.kl.after, b.kl.after, lambda v: f"{v:.4f}", False),
        ("Perplexity", _perplexity(a), _perplexity(b), written, False),
        ("Your score", a.stages[-1].score, b.stages[-1].score, lambda v: f"{v:.4f}", False),
        ("Time", sum(a.seconds.values()), sum(b.seconds.values()), seconds, True),
    ]
    made = []
    for name, left, right, said, relative in rows:
        if left is None and right is None:
            continue
        difference = NONE
        if left is not None and right is not None:
            change = right / left - 1 if relative and left else right - left
            difference = f"{100 * change:+.1f} %" if relative else f"{change:+.4g}"
            if name == "Agreement":
                difference = f"{100 * change:+.1f} points"
        difference = difference.replace("-", "\N{MINUS SIGN}")
        cells = "".join(f"<td>{NONE if value is None else said(value)}</td>" for value in (left, right))
        made.append(f"<tr><th scope=row class=word>{name}</th>{cells}<td>{difference}</td></tr>")
    heads = "".join(
        f"<th scope=col><span class=badge>{letter}</span>{escape(r.recipe)}</th>" for letter, r in (("A", a), ("B", b))
    )
    return (
        "<div class='scroll compared'><table><thead><tr><th class=word></th>"
        f"{heads}<th scope=col>B against A</th></tr></thead><tbody>{''.join(made)}</tbody></table></div>"
    )


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
    heads = _cells("th scope=col", ["agreement", "KL (nats)", "output MSE", *(["your score"] if scored else [])])
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
        "<th scope=col></th><th scope=col>damage</th><th scope=col>kept</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        "<p class=small>The damage to the outputs, as a share of that of the same answer to all inputs.</p>"
    )


def _cells(tag: str, texts: list[str]) -> str:
    """A row of :func:`stages`; the third column is left out on a phone."""
    return "".join(f"<{tag}{' class=wide' if n == 2 else ''}>{text}</{tag[:2]}>" for n, text in enumerate(texts))


def layers(report: Figures, curves: DamageCurves | None) -> str:
    """Every compressed parameter, sortable; with a sweep, the damage that it alone does."""
    swept = curves is not None and any(
        curves.damage(layer.name, layer.centroids) is not None for layer in report.layers
    )
    finer = any(layer.granularity != "tensor" for layer in report.layers)
    damage = "KL alone" if curves and meaning(curves.rows) == IN_NATS else "damage alone"
    heads = [("#", "wide"), ("parameter", "word"), ("shape", "wide"), ("centroids", "")]
    heads += [("granularity", "wide")] if finer else []
    heads += [("bits", "wide"), ("bytes", ""), ("SNR (dB)", "")]
    heads += [(damage, "")] if swept else []
    heads += [("trained", "")]
    head = "".join(
        f'<th scope=col class="{kind}" aria-sort={"ascending" if n == 0 else "none"}>'
        f"<button type=button>{name}</button></th>"
        for n, (name, kind) in enumerate(heads)
    )
    most = max(1, *(layer.bytes for layer in report.layers)) if report.layers else 1
    body = "".join(
        _layer(number, layer, most, finer, curves if swept else None)
        for number, layer in enumerate(report.layers, start=1)
    )
    total = sum(layer.bytes for layer in report.layers)
    said = (
        f"{len(report.layers)} parameter{'s' if len(report.layers) != 1 else ''}: {total:,} bytes of codes and "
        f"codebooks. With {report.others:,} bytes of all other tensors, names and checksums that is the file of "
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
    long = " long" if len(report.layers) > _LONG else ""
    notes = "".join(f"<li>{breakable(note)}</li>" for note in report.notes)
    others += f"<ul class='small notes'>{notes}</ul>" if notes else ""
    return (
        f'<div class="scroll layers{long}" tabindex=0 role=region aria-label="Compressed parameters">'
        f"<table class=sortable><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<p class=small>{said}</p>{others}"
    )


def _layer(number: int, layer: LayerReport, most: int, finer: bool, curves: DamageCurves | None) -> str:
    damage = ""
    if curves is not None:
        found = curves.damage(layer.name, layer.centroids)
        damage = f"<td data-value={-1 if found is None else found}>{NONE if found is None else f'{found:.2g}'}</td>"
    exact = math.isinf(layer.snr)
    name = escape(layer.name, quote=True)
    vectors = f" × {layer.block}" if layer.block > 1 else ""
    granularity = f"<td class=wide>{escape(layer.granularity)}</td>" if finer else ""
    return (
        f'<tr data-layer="{name}"><td class=wide data-value={number}>{number}</td>'
        f"<td class=word><button type=button>{breakable(layer.name)}</button></td>"
        f"<td class=wide data-value={math.prod(layer.shape)}>{' × '.join(map(str, layer.shape))}</td>"
        f"<td data-value={layer.centroids}>{layer.centroids:,}{vectors}</td>{granularity}"
        f"<td class=wide data-value={layer.bits}>{layer.bits:g}</td>"
        f'<td class=bar style="--share:{100 * layer.bytes / most:.1f}%" data-value={layer.bytes}>{layer.bytes:,}</td>'
        f"<td data-value={1e9 if exact else layer.snr}>{'exact' if exact else f'{layer.snr:.1f}'}</td>{damage}"
        f"<td>{'yes' if layer.trained else 'no'}</td></tr>"
    )


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
