"""Plots; matplotlib is optional."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lloydmax.errors import IntegrationError

if TYPE_CHECKING:
    from lloydmax.choosing.sweep import Sweep

_LEGEND = 24


def plot_sweep(sweep: Sweep, path: str | Path) -> None:
    """Damage against bytes on logarithmic axes, a line for each unit, from early (dark) to late (bright).

    Raises:
        IntegrationError: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError:
        raise IntegrationError("plots need matplotlib; run: pip install matplotlib") from None
    units = sweep.by_unit()
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    floor = min((row.damage for row in sweep.rows if row.damage > 0), default=1e-9)
    for number, (unit, rows) in enumerate(units.items()):
        axes.plot(
            [row.bytes for row in rows],
            [max(row.damage, floor) for row in rows],
            marker=".",
            color=colormaps["viridis"](number / max(len(units) - 1, 1)),
            label=unit,
        )
    axes.set(xscale="log", yscale="log", xlabel="bytes of codes and codebook")
    axes.set_ylabel("KL to the original (nats)" if sweep.rows[0].kl is not None else "noise / signal of the outputs")
    axes.set_title(f"{sweep.model}: one layer at a time, each point a number of centroids")
    if len(units) <= _LEGEND:
        axes.legend(fontsize="small")
    figure.savefig(path)
