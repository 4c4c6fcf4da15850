"""Plans, reports and files as tables in the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table

_WIDEST = 240

if TYPE_CHECKING:
    from lloydmax.data.fitness import Fitness
    from lloydmax.plan import Plan
    from lloydmax.report import Report


def render(*tables: RenderableType) -> str:
    """Tables as plain text, as wide as their widest line."""
    console = Console(file=io.StringIO(), width=_WIDEST, no_color=True)
    console.print(*tables, sep="\n")
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def size(count: float) -> str:
    """Bytes as people write them: ``1.23 MB`` (powers of 1,000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError


def percent(share: float | None, digits: int = 2) -> str:
    """A share as a percentage; a dash where it was not measured."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def plan_table(plan: Plan) -> Table:
    """One line for each compressed parameter, and the totals."""
    kept = plan.total_weights - sum(p.weights for p in plan.parameters.values())
    trained = len(plan.trainable - set(plan.parameters))
    summary = (
        f"{kept:,} other weights stay floats, {trained} tensors of them trained\n"
        f"{plan.model}: {size(plan.original_bytes)} -> {size(plan.predicted_bytes)}, "
        f"{percent(plan.reduction)} smaller ({plan.original_bytes / plan.predicted_bytes:.1f} times)"
    )
    table = Table(title=f"Plan of recipe {plan.recipe.name!r}", caption=summary, title_justify="left")
    for name in ("layer", "parameter", "type"):
        table.add_column(name, overflow="fold")
    for name in ("shape", "centroids", "granularity", "bits", "bytes", "centroids are"):
        table.add_column(name, justify="right")
    for row in plan.rows():
        table.add_row(
            "" if row["layer"] is None else str(row["layer"]),
            row["parameter"],
            row["type"],
            "x".join(map(str, row["shape"])),
            str(row["centroids"]),
            row["granularity"],
            f"{row['bits']:.3g}",
            f"{row['bytes']:,}",
            "trained" if row["trained"] else "frozen",
        )
    return table


def report_tables(report: Report) -> list[RenderableType]:
    """Sizes, agreement, layers and times of a report."""
    sizes = Table(title=f"{report.model} compressed by recipe {report.recipe!r}", title_justify="left")
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
    layers = Table(title="Compressed parameters", title_justify="left")
    layers.add_column("parameter", overflow="fold")
    for name in ("shape", "centroids", "granularity", "bytes", "SNR (dB)", "centroids are"):
        layers.add_column(name, justify="right")
    for layer in report.layers:
        layers.add_row(
            layer.name,
            "x".join(map(str, layer.shape)),
            str(layer.centroids),
            layer.granularity,
            f"{layer.bytes:,}",
            f"{layer.snr:.1f}",
            "trained" if layer.trained else "frozen",
        )
    tables.append(layers)
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    tables.append(f"Time: {times}")
    return tables


def stage_table(report: Report) -> Table:
    """Agreement with the original and the caller's score through the stages."""
    scored = report.stages[0].score is not None
    against = f"Against the original, on {report.measured_on}" if report.measured_on else "Your evaluation"
    table = Table(title=against, title_justify="left")
    table.add_column("stage")
    for name in ("agreement", "KL (nats)", "output MSE", *(("your score",) if scored else ())):
        table.add_column(name, justify="right")
    for stage in report.stages:
        found = stage.agreement
        alike = ("", "", "")
        if found is not None:
            alike = (percent(found.top1), "–" if found.kl is None else f"{found.kl:.5f}", f"{found.mse:.3g}")
        table.add_row(stage.name, *alike, *((f"{stage.score:.4f}",) if scored else ()))
    return table


def demo_table(report: Report) -> Table:
    """Accuracy and size from the original to the recovered model."""
    table = Table(title="Demo: a ResNet for Fashion-MNIST, recovered on animal silhouettes", title_justify="left")
    table.add_column("stage")
    for name in ("test accuracy", "size", "times smaller"):
        table.add_column(name, justify="right")
    original = report.bytes.original
    table.add_row("original (float32)", percent(report.stages[0].score), size(original), "1.0")
    for stage in report.stages[1:]:
        table.add_row(stage.name, percent(stage.score), size(report.bytes.file), f"{original / report.bytes.file:.1f}")
    return table


def fitness_table(sets: Sequence[Fitness]) -> Table:
    """One line for each set of inputs, in their order."""
    normed = any(fitness.distance is not None for fitness in sets)
    by = "distance of batch-norm statistics" if normed else "use of the classes (the model has no batch norm)"
    table = Table(title="How well sets of inputs suit the model, best first", title_justify="left", caption=f"By {by}")
    table.add_column("inputs", overflow="fold")
    for name in ("distance", "class use", "confidence", "samples"):
        table.add_column(name, justify="right")
    for fitness in sets:
        table.add_row(
            fitness.name,
            "–" if fitness.distance is None else f"{fitness.distance:.4f}",
            percent(fitness.class_use, 1),
            percent(fitness.confidence, 1),
            f"{fitness.samples:,}",
        )
    return table
