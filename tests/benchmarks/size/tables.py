"""Results as Markdown tables, as JSON and as plots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from published.cells import markdown as table

from size.plots import plot
from size.runs import METHODS, Result
from size.target import Target

COUNTED = (
    "Bytes: lloydmax's and nncodec's are those of their real files. The other peers write no small file that counts "
    "every method alike, so theirs are ideal, in their favour: codes packed at fixed width, codebooks (only of values "
    "that occur) and scales in float16, everything else in float16, no header, no names. Memory: the peak while "
    "compressing, with torch, the teacher and the peer loaded. One cell is one process.\n"
)
COLUMNS: dict[str, tuple[str, str, float]] = {
    "agreement": ("agreement, %", "{:.2f}", 100),
    "accuracy": ("accuracy, %", "{:.2f}", 100),
    "cosine": ("mean cosine", "{:.4f}", 1),
    "correlation": ("correlation of similarities", "{:.4f}", 1),
    "kl": ("KL, nats", "{:.4f}", 1),
    "seconds": ("CPU, s", "{:.1f}", 1),
    "memory": ("peak memory, MB", "{:.0f}", 1),
}
"""Figure -> its column, form and factor."""


def write(folder: Path, plots: Path, results: Sequence[Result], titles: Mapping[str, str]) -> str:
    """``results.json`` and ``tables.md`` in ``folder``, and ``accuracy_at_size_NETWORK.png`` in ``plots`` for every
    network with results; the tables."""
    text = markdown(results, titles)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"results.json": json.dumps(results, indent=1) + "\n", "tables.md": text}.items():
        temporary = folder / f"{name}.part"
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(folder / name)
    for network, title in titles.items():
        mine = [result for result in _of(results, network) if "figures" in result]
        if mine:
            plot(plots / f"accuracy_at_size_{network}.png", mine, title)
    return text


def markdown(results: Sequence[Result], titles: Mapping[str, str]) -> str:
    """For each network: what counts most by size, all figures, and what was refused."""
    if not results:
        return "No cell is done.\n"
    parts = [_machine(results), COUNTED]
    for network, title in titles.items():
        mine = _of(results, network)
        if mine:
            parts += [f"### {title}\n", _overview(mine), _details(mine), *_notes(mine)]
    return "\n".join(parts)


def _of(results: Sequence[Result], network: str) -> list[Result]:
    return [result for result in results if result["key"]["network"] == network]


def _sizes(results: Sequence[Result]) -> list[Target]:
    """Files last, the largest first."""
    found = {Target.read(result["key"]["bits"]) for result in results}
    return sorted(found, key=lambda target: (target.file, -target.bits))


def _cells(results: Sequence[Result]) -> dict[tuple[str, Target], Result]:
    return {(result["key"]["method"], Target.read(result["key"]["bits"])): result for result in results}


def _machine(results: Sequence[Result]) -> str:
    together: dict[str, set[str]] = {}
    for result in results:
        for name, value in result["environment"].items():
            together.setdefault(name, set()).add(str(value))
    return ", ".join(f"{name} {' / '.join(sorted(values))}" for name, values in together.items()) + "\n"


def _overview(results: Sequence[Result]) -> str:
    """Agreement or cosine."""
    shown = [result["figures"] for result in results if "figures" in result]
    name = "cosine" if any("cosine" in figures for figures in shown) else "agreement"
    _, form, scale = COLUMNS[name]
    sizes, cells = _sizes(results), _cells(results)
    rows = []
    for method, title in METHODS.items():
        row = [title]
        for size in sizes:
            result = cells.get((method, size), {})
            figures = result.get("figures", {})
            value = (
                f"{form.format(scale * figures.get(name, 0.0))} ({figures['bits_per_weight']:.2f})" if figures else "-"
            )
            row.append("no" if "refused" in result else value)
        rows.append(row)
    head = [f"{COLUMNS[name][0]} (bits of the file a weight)", *(size.title for size in sizes)]
    return table(f"By size: {_original(results)}", head, rows)


def _details(results: Sequence[Result]) -> str:
    used = {n: c for n, c in COLUMNS.items() if any(n in result.get("figures", {}) for result in results)}
    cells, rows = _cells(results), []
    for method, title in METHODS.items():
        for size in _sizes(results):
            figures = cells.get((method, size), {}).get("figures")
            if figures:
                values = [form.format(by * figures[n]) if n in figures else "-" for n, (_, form, by) in used.items()]
                rows.append([title, size.title, f"{figures['bytes']:,}", f"{figures['bits_per_weight']:.3f}", *values])
    head = ["", "size", "bytes", "bits a weight", *(column for column, _, _ in used.values())]
    return table("All figures", head, rows)


def _original(results: Sequence[Result]) -> str:
    accuracy = max(
        (result["figures"].get("teacher_accuracy", 0.0) for result in results if "figures" in result), default=0
    )
    told = f", accuracy {100 * accuracy:.2f} %" if accuracy else ""
    return f"the original has {results[0]['parameters']:,} weights of 32 bits{told}"


def _notes(results: Sequence[Result]) -> Iterator[str]:
    """What stays float and what was refused, each once."""
    lines: dict[str, list[Target]] = {}
    for result in results:
        method, size = METHODS[result["key"]["method"]], Target.read(result["key"]["bits"])
        if "refused" in result:
            lines.setdefault(f"{method} refused: {' '.join(result['refused'].split())[:300]}", []).append(size)
        elif result["left_float"]:
            names = result["left_float"]
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            lines.setdefault(f"{method} leaves {len(names)} weights float: {shown}", []).append(size)
    for line, sizes in lines.items():
        told = ", ".join(size.title for size in sorted(sizes, key=lambda size: (size.file, -size.bits)))
        yield f"- {line} ({told})"
    yield ""
