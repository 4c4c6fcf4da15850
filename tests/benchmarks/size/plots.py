"""Plots: what is left of a network against the bytes of its file, a line for each method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from size.runs import METHODS, Result

SHOWN = {"agreement": "agreement with the original, %", "accuracy": "accuracy, %", "cosine": "mean cosine, %"}
"""Figure -> label of its axis."""
STYLES = {
    "lloydmax": ("#9ec5e8", "o", "-"),
    "lloydmax-renormalize": ("#4292c6", "D", "-"),
    "lloydmax-full": ("#08306b", "o", "-"),
    "coremltools-tensor": ("#fdae6b", "o", "--"),
    "coremltools-group": ("#f07818", "s", "--"),
    "coremltools-channel": ("#a63603", "D", "--"),
    "coreai-tensor": ("#c7a5d8", "x", ":"),
    "coreai-channel": ("#7b3294", "+", ":"),
    "inc-rtn": ("#74c476", "^", "-."),
    "inc-hqq": ("#238b45", "v", "-."),
    "torchao": ("#969696", "P", "-."),
    "torchao-intx": ("#525252", "X", "-."),
    "nncodec": ("#d6278a", "*", "--"),
}
"""Method -> colour, marker, line: one hue a project."""


def plot(path: Path, results: Sequence[Result], title: str) -> None:
    """One picture, a part for each figure that there is, with the same bytes below; PNG.

    Args:
        path: replaced when the picture is complete.
        results: of one network, all with figures.
        title: above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [name for name in SHOWN if any(name in result["figures"] for result in results)]
    figure = Figure(figsize=(10.5, 1.0 + 4.2 * len(shown)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
    for axis, name in zip(axes, shown, strict=True):
        _lines(axis, name, results)
    axes[0].set_title(title, loc="left")
    axes[-1].set(xscale="log", xlabel="size of the file, MB")
    _round_ticks(axes[-1], [result["figures"]["bytes"] / 1e6 for result in results])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    figure.savefig(temporary, format="png", metadata={"Software": None})
    temporary.replace(path)


def _lines(axis: Any, name: str, results: Sequence[Result]) -> None:
    for method, label in METHODS.items():
        mine = [result["figures"] for result in results if result["key"]["method"] == method]
        points = sorted((figures["bytes"] / 1e6, 100 * figures.get(name, 0.0)) for figures in mine)
        if points:
            colour, marker, line = STYLES[method]
            ours = method.startswith("lloydmax")
            thick = {"linewidth": 2.2 if ours else 1.2, "markersize": 5.5, "zorder": 3 if ours else 2}
            axis.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle=line, label=label, **thick)
    original = max(result["figures"].get("teacher_accuracy", 0.0) for result in results)
    if name == "accuracy":
        axis.axhline(100 * original, color="black", linewidth=0.8, linestyle=(0, (2, 3)))
        axis.annotate("original", (1, 100 * original), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axis.set_ylabel(SHOWN[name])
    axis.grid(alpha=0.3)


def _round_ticks(axis: Any, sizes: Sequence[float]) -> None:
    """1, 1.5, 2, 2.5, 3, 4, 5, 7 and their tenfolds, in plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks = [digit * 10.0**power for power in range(-4, 5) for digit in (1, 1.5, 2, 2.5, 3, 4, 5, 7)]
    axis.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if min(sizes) * 0.9 <= tick <= max(sizes) * 1.1]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
