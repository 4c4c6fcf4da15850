"""Results as Markdown tables, as JSON and as plots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from published.cells import markdown as table

from size.peers import BITS
from size.runs import METHODS

Result = dict[str, Any]
ORDER = sorted(BITS, reverse=True)


def markdown(results: Sequence[Result], titles: Mapping[str, str]) -> str:
    """For each network: agreement by bits of a code, all figures, and what was refused."""
    parts = [_machine(results)] if results else ["No cell is done.\n"]
    for network, title in titles.items():
        mine = [result for result in results if result["key"]["network"] == network]
        if mine:
            parts += [f"### {title}\n", _overview(mine), _details(mine), *_notes(mine)]
    return "\n".join(parts)


def write(folder: Path, results: Sequence[Result], text: str, titles: Mapping[str, str]) -> None:
    """``results.json``, ``tables.md``, and ``NETWORK.svg`` for every network with results."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "tables.md").write_text(text, encoding="utf-8")
    for network, title in titles.items():
        mine = [r for r in results if r["key"]["network"] == network and "figures" in r]
        if mine:
            plot(folder / f"{network}.svg", mine, title)


def plot(path: Path, results: Sequence[Result], title: str) -> None:
    """Agreement (top) and, with labels, accuracy (bottom) against the bytes of the file, a line for each method."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lloydmax"
    from matplotlib import pyplot as plt

    shown = [name for name in ("agreement", "accuracy") if any(name in r["figures"] for r in results)]
    figure, axes = plt.subplots(len(shown), 1, figsize=(8, 4.5 * len(shown)), squeeze=False, sharex=True)
    for axis, name in zip(axes[:, 0], shown, strict=True):
        for number, (method, label) in enumerate(METHODS.items()):
            points = sorted((r["figures"]["bytes"], r["figures"].get(name)) for r in _of(results, method))
            if points:
                ours = method.startswith("lloydmax")
                width, marker = (2.2, "o") if ours else (1.0, "xsv^<>+d*"[number % 9])
                axis.plot(*zip(*points, strict=True), marker=marker, linewidth=width, markersize=5, label=label)
        teacher = max((r["figures"].get("teacher_accuracy", 0.0) for r in results), default=0.0)
        if name == "accuracy":
            axis.axhline(teacher, color="grey", linestyle=":", label="original")
        axis.set(xscale="log", ylabel=name, title=title if axis is axes[0, 0] else "")
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("bytes of the file")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    temporary = path.with_suffix(".part")
    figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)
    temporary.replace(path)


def _of(results: Sequence[Result], method: str, bits: int | None = None) -> list[Result]:
    return [r for r in results if r["key"]["method"] == method and "figures" in r and bits in (None, r["key"]["bits"])]


def _machine(results: Sequence[Result]) -> str:
    together: dict[str, set[str]] = {}
    for result in results:
        for name, value in result["environment"].items():
            together.setdefault(name, set()).add(str(value))
    return ", ".join(f"{name} {' / '.join(sorted(values))}" for name, values in together.items()) + "\n"


def _overview(results: Sequence[Result]) -> str:
    rows = []
    for method, title in METHODS.items():
        cells = []
        for bits in ORDER:
            found = _of(results, method, bits)
            refused = any(r["key"] | {"method": method, "bits": bits} == r["key"] and "refused" in r for r in results)
            figures = found[0]["figures"] if found else {}
            text = f"{100 * figures['agreement']:.1f} ({figures['bits_per_weight']:.2f})" if found else "-"
            cells.append("refused" if refused else text)
        rows.append([title, *cells])
    head = ["agreement, % (bits of the file per original weight)", *(f"{bits} bits" for bits in ORDER)]
    return table("Agreement with the original, by bits of a code", head, rows)


def _details(results: Sequence[Result]) -> str:
    columns: dict[str, tuple[str, str, float]] = {
        "agreement": ("agreement, %", "{:.2f}", 100),
        "accuracy": ("accuracy, %", "{:.2f}", 100),
        "correlation": ("correlation", "{:.4f}", 1),
        "kl": ("KL, nats", "{:.4f}", 1),
        "seconds": ("CPU seconds", "{:.1f}", 1),
        "memory": ("memory, MB", "{:.0f}", 1),
    }
    used = {name: form for name, form in columns.items() if any(name in r.get("figures", {}) for r in results)}
    rows = []
    for method, title in METHODS.items():
        for bits in ORDER:
            for result in _of(results, method, bits):
                figures = result["figures"]
                values = [
                    form.format(scale * figures[name]) if name in figures else "-"
                    for name, (_, form, scale) in used.items()
                ]
                rows.append([title, str(bits), f"{figures['bytes']:,}", f"{figures['bits_per_weight']:.3f}", *values])
    accuracy = max((r["figures"].get("teacher_accuracy", 0.0) for r in results if "figures" in r), default=0.0)
    parameters = max((r.get("parameters", 0) for r in results), default=0)
    original = f"{parameters:,} weights" + (f", accuracy {100 * accuracy:.2f} %" if accuracy else "")
    head = ["", "bits", "bytes", "bits per weight", *(column for column, _, _ in used.values())]
    return table(f"All figures (original: {original})", head, rows)


def _notes(results: Sequence[Result]) -> Iterator[str]:
    """What stays float, what the bytes are of, and what was refused, each once."""
    lines: dict[str, list[str]] = {}
    for result in results:
        method, bits = METHODS[result["key"]["method"]], str(result["key"]["bits"])
        if "refused" in result:
            lines.setdefault(f"{method} refused: {' '.join(result['refused'].split())[:300]}", []).append(bits)
        elif result["left_float"]:
            names = result["left_float"]
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            lines.setdefault(f"{method} leaves {len(names)} weights float: {shown}", []).append(bits)
    for line, bits in lines.items():
        yield f"- {line} ({', '.join(sorted(bits, reverse=True))} bits)"
    yield ""
