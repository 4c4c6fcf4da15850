"""A report as tables in the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lloydmax.report.figures import Figures
from lloydmax.report.tokens import TOKEN_COLUMNS, divergences_written, written
from lloydmax.runtime.text import new_table, paragraphs, percent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def report_tables(report: Figures) -> list[RenderableType]:
    """Sizes, agreement, layers and times of a report."""
    bits = None if report.bits is None else f"{report.bits:.2f} bits of file for each of {report.weights:,} weights"
    title = f"{report.model} compressed by recipe {report.recipe!r}"
    sizes = new_table(title, bits, spare=("smaller",))
    sizes.add_column("size")
    for name in ("bytes", "smaller", "times"):
        sizes.add_column(name, justify="right")
    original = report.bytes.original
    for label, count in (
        ("original", original),
        ("file", report.bytes.file),
        ("  fixed-width codes", report.bytes.packed),
        ("  entropy-coded codes", report.bytes.entropy_coded),
        ("  gzip of float32", report.bytes.gzip_float32),
    ):
        sizes.add_row(label, f"{count:,}", percent(1 - count / original), f"{original / count:.2f}")
    tables: list[RenderableType] = [sizes]
    if report.measured_on is not None or report.stages[0].score is not None:
        tables.append(stage_table(report))
    if report.token_stages():
        tables.append(token_table(report))
    if report.outputs:
        tables.append(f"Outputs: {'; '.join(report.answers())}")
    if report.tried:
        tables.append(tried_table(report))
    tables += [line[:1].upper() + line[1:] for line in report.left_out()]
    tables.append(layer_table(report))
    if report.notes:
        tables.append(paragraphs(report.notes))
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    tables.append(f"Time: {times}")
    return tables


def layer_table(report: Figures) -> Table:
    """Every compressed parameter as it is stored, and what else is in the file."""
    table = new_table("Compressed parameters", spare=("granularity", "shape", "trained", "SNR (dB)", "bits"))
    table.add_column("parameter", overflow="fold")
    for name in ("shape", "centroids", "granularity", "bits", "bytes", "SNR (dB)", "trained"):
        table.add_column(name, justify="right")
    for layer in report.layers:
        table.add_row(
            layer.name,
            "x".join(map(str, layer.shape)),
            str(layer.centroids),
            layer.granularity,
            f"{layer.file_bits:.3g}",
            f"{layer.bytes:,}",
            "exact" if math.isinf(layer.snr) else f"{layer.snr:.1f}",
            "yes" if layer.trained else "no",
        )
    table.add_section()
    for name, count in (("everything else in the file", report.others), ("the file", report.bytes.file)):
        table.add_row(name, *[""] * 4, f"{count:,}", "", "")
    return table


def tried_table(report: Figures) -> Table:
    """What was compared, and what of it is in the model."""
    table = new_table(title=f"Tried, and judged by the outputs on {report.measured_on}", spare=("what",))
    for name in ("what", "way"):
        table.add_column(name)
    table.add_column("damage", justify="right")
    table.add_column("kept")
    for one in report.tried:
        table.add_row(
            one.what,
            one.name,
            f"{one.damage:.3g}",
            "yes" if one.kept else "",
        )
    return table


def token_table(report: Figures) -> Table:
    """Perplexity on real tokens, and the spread of the divergences of single tokens, through the stages."""
    stages = report.token_stages()
    table = new_table(f"At {stages[-1][1].tokens:,} tokens", spare=("median", "99.9 %", "90 %", "largest", "99 %"))
    table.add_column("stage")
    perplexity = report.perplexity
    for name in (*(("perplexity",) if perplexity else ()), *TOKEN_COLUMNS):
        table.add_column(name, justify="right")
    if perplexity is not None:
        table.add_row("original", written(perplexity.original))
    for stage, found in stages:
        table.add_row(stage, *((written(found.perplexity),) if perplexity else ()), *divergences_written(found))
    return table


def stage_table(report: Figures) -> Table:
    """Agreement with the original and the caller's score through the stages."""
    scored = report.stages[0].score is not None
    against = f"Against the original, on {report.measured_on}" if report.measured_on else "Your evaluation"
    table = new_table(against, spare=("output MSE", "KL (nats)"))
    table.add_column("stage")
    for name in ("agreement", "KL (nats)", "output MSE", *(("your score",) if scored else ())):
        table.add_column(name, justify="right")
    for stage in report.stages:
        found = stage.agreement
        alike = ("", "", "")
        if found is not None:
            alike = (percent(found.agreed), "–" if found.kl is None else f"{found.kl:z.5f}", f"{found.mse:.3g}")
        table.add_row(stage.name, *alike, *((f"{stage.score:.4f}",) if scored else ()))
    return table
