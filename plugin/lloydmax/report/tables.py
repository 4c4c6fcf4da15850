"""The tables of the page as HTML."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape

from lloydmax.report.charts import LETTERS
from lloydmax.report.figures import Figures
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
        ("KL divergence (nats)", [r.kl.after for r in reports], lambda v: f"{v:z.4f}", False),
        ("Perplexity", [_perplexity(r) for r in reports], written, False),
        ("Your score", [r.stages[-1].score for r in reports], lambda v: f"{v:z.4f}", False),
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
            cells = [percent(found.agreed), NONE if found.kl is None else f"{found.kl:z.5f}", f"{found.mse:.3g}"]
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
