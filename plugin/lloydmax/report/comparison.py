"""Compressed files beside each other: terminal tables, JSON, a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloydmax.report import charts, tables
from lloydmax.report.layer_table import Column, sortable
from lloydmax.report.page import document, section
from lloydmax.runtime import files
from lloydmax.runtime.text import new_table, percent, render, size
from lloydmax.teacher.agreement import Agreement

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ComparedLayer:
    """One compressed parameter in one file.

    Attributes:
        centroids: of one codebook.
        granularity: what shares a codebook.
        bits: of the file for one weight, codes and codebooks.
        bytes: of codes and codebooks.
        difference: how far its weights are from those that files are compared with, as a share of their size: root mean
            square of the difference over that of the weights; ``None`` where these are not there in the same shape.
    """

    centroids: int
    granularity: str
    bits: float
    bytes: int
    difference: float | None


@dataclass(frozen=True)
class ComparedFile:
    """One file.

    Attributes:
        path: as it was given.
        recipe: name of the recipe that made it; ``None`` where the file keeps none.
        bytes: of the file.
        original: bytes of the model that it stands for.
        agreement: with the original; ``None`` where it was not measured.
        layers: its compressed parameters by name.
    """

    path: str
    recipe: str | None
    bytes: int
    original: int
    agreement: Agreement | None
    layers: dict[str, ComparedLayer]

    @property
    def bits(self) -> float | None:
        """Bits of codes and codebooks for each compressed weight; ``None`` where nothing is compressed."""
        weights = sum(8 * layer.bytes / layer.bits for layer in self.layers.values() if layer.bits)
        return 8 * sum(layer.bytes for layer in self.layers.values()) / weights if weights else None


@dataclass(frozen=True)
class FileComparison:
    """What :func:`lloydmax.compare` gives back; ``print(comparison)`` is two tables.

    Attributes:
        files: in the order in which they were given.
        against: what the weights of each layer are compared with: ``the original``, or ``A``, the first file.
        measured_on: what the agreement was measured on, in words; ``None`` without data.
    """

    files: tuple[ComparedFile, ...]
    against: str
    measured_on: str | None

    def layers(self) -> list[str]:
        """The compressed parameters of any file."""
        return list(dict.fromkeys(name for file in self.files for name in file.layers))

    def names(self) -> list[str]:
        """What the files are called: their names without an ending, or where these are alike their paths."""
        short = [Path(file.path).name.removesuffix(".safetensors") for file in self.files]
        return short if len(set(short)) == len(short) else [file.path for file in self.files]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain: dict[str, Any] = files.plain(asdict(self))
        return plain

    def to_json(self, path: str | Path) -> None:
        """Write the comparison as JSON.

        Raises:
            OutputError: the folder is missing or not writable, the disk is full.
        """
        files.write_json(path, self.to_dict())

    def to_html(self, path: str | Path) -> None:
        """Write the comparison as one self-contained page for a browser.

        Raises:
            OutputError: the folder is missing or not writable, the disk is full.
        """
        files.write_text(path, _page(self))

    def __str__(self) -> str:
        return render(_files_table(self), _layers_table(self))


def _measured(name: str) -> Callable[[ComparedFile], float | None]:
    """A figure of the agreement, where that was measured."""
    return lambda file: None if file.agreement is None else getattr(file.agreement, name)


_FIGURES: tuple[tuple[str, Callable[[ComparedFile], float | None], Callable[[float], str]], ...] = (
    ("size", lambda file: file.bytes, size),
    ("times smaller", lambda file: file.original / file.bytes, lambda value: f"{value:.1f}"),
    ("bits a compressed weight", lambda file: file.bits, lambda value: f"{value:.2f}"),
    ("agreement", _measured("agreed"), percent),
    ("KL (nats)", _measured("kl"), lambda value: f"{value:z.5f}"),
    (
        "squared error",
        _measured("mse"),
        lambda value: f"{value:.3g}",
    ),
)


def _shown(comparison: FileComparison) -> list[tuple[str, list[str]]]:
    """The figures that any file has, as text."""
    made = []
    for name, value, said in _FIGURES:
        values = [value(file) for file in comparison.files]
        if any(value is not None for value in values):
            made.append((name, [tables.NONE if value is None else said(value) for value in values]))
    return made


def _files_table(comparison: FileComparison) -> Table:
    measured = comparison.measured_on
    caption = f"Agreement with the original on {measured}" if measured else "Agreement: give a model and data"
    table = new_table("Compared files", caption, spare=("squared error", "KL (nats)", "bits a compressed weight"))
    table.add_column("")
    table.add_column("file", overflow="fold")
    shown = _shown(comparison)
    for name, _ in shown:
        table.add_column(name, justify="right")
    for run, name in enumerate(comparison.names()):
        table.add_row(charts.LETTERS[run], name, *(texts[run] for _, texts in shown))
    return table


def _layers_table(comparison: FileComparison) -> Table:
    letters = charts.LETTERS[: len(comparison.files)]
    compared = _compared(comparison)
    spare = [f"{letter} {what}" for what in ("bits", "differs") for letter in reversed(letters)]
    title = f"Layers: bytes, bits a weight, and how far the weights are from those of {comparison.against}"
    table = new_table(title, spare=[*spare, *(f"{letter} bytes" for letter in reversed(letters[2:]))])
    table.add_column("parameter", overflow="fold")
    for run, letter in enumerate(letters):
        for what in ("bytes", "bits", *(["differs"] if run in compared else [])):
            table.add_column(f"{letter} {what}", justify="right")
    for name in comparison.layers():
        cells: list[str] = []
        for run, file in enumerate(comparison.files):
            layer = file.layers.get(name)
            cells += [tables.NONE] * 2 if layer is None else [f"{layer.bytes:,}", f"{layer.bits:.3g}"]
            cells += [_differs(layer)] if run in compared else []
        table.add_row(name, *cells)
    return table


def _compared(comparison: FileComparison) -> Iterable[int]:
    """The files whose weights are compared with something."""
    return range(0 if comparison.against != charts.LETTERS[0] else 1, len(comparison.files))


def _differs(layer: ComparedLayer | None) -> str:
    if layer is None or layer.difference is None:
        return tables.NONE
    return "same" if layer.difference == 0 else f"{100 * layer.difference:.2g} %"


def _page(comparison: FileComparison) -> str:
    names = comparison.names()
    heads = "".join(f"<th scope=col>{tables.badge(run)}{escape(name)}</th>" for run, name in enumerate(names))
    rows = "".join(
        f"<tr><th scope=row class=word>{name[:1].upper() + name[1:]}{''.join(f'<td>{text}' for text in texts)}"
        for name, texts in _shown(comparison)
    )
    key = (
        "<div class='scroll compared' tabindex=0 role=region aria-label='Key figures'>"
        f"<table><thead><tr><th class=word></th>{heads}</tr></thead><tbody>{rows}</table></div>"
    )
    sections = [_sizes(comparison), _agreements(comparison), _layers(comparison), _facts(comparison)]
    heading = f"<div><h1>{len(names)} compressed files</h1>{key}</div>"
    return document(" and ".join(names), "several", heading, sections)


def _sizes(comparison: FileComparison) -> str:
    rows = [("The file", [float(file.bytes) for file in comparison.files])]
    drawn = charts.bars("", "Size of the files", rows, charts.of_bytes, 0)
    return section("Size", "What is written to the disk.", drawn)


def _agreements(comparison: FileComparison) -> str:
    rows = [("Agreement", [_measured("agreed")(file) for file in comparison.files])]
    if comparison.measured_on is None or all(value is None for value in rows[0][1]):
        return section("Agreement with the original", "Not measured: give the model and data to have it.", "")
    drawn = charts.stages("Agreement", rows, lambda _, value: percent(value, 1), lambda value: f"{100 * value:.4g} %")
    note = (
        "The share of inputs on which the compressed model answers as the original does; where outputs do not decide, "
        f"how alike they are. Measured on {escape(comparison.measured_on)}."
    )
    return section("Agreement with the original", note, drawn)


def _layers(comparison: FileComparison) -> str:
    columns = []
    for run in range(len(comparison.files)):
        badge = tables.badge(run)
        columns += [
            Column(f"{badge}centroids", "wide", run, lambda layer: (layer.centroids, f"{layer.centroids:,}")),
            Column(f"{badge}bits", "wide", run, lambda layer: (layer.bits, f"{layer.bits:.3g}")),
            Column(f"{badge}bytes", "", run, lambda layer: (layer.bytes, f"{layer.bytes:,}"), bar=True),
        ]
        columns += [Column(f"{badge}differs (%)", "", run, _difference)] if run in _compared(comparison) else []
    note = (
        "Select a heading to sort. Centroids are the values that the weights of a layer share; bits are those of the "
        f"file for one weight. Differs: how far the weights are from those of {comparison.against}, as a share of "
        "their size."
    )
    return section("Layers", note, sortable([file.layers for file in comparison.files], columns))


def _difference(layer: ComparedLayer) -> tuple[float, str] | None:
    return None if layer.difference is None else (layer.difference, _differs(layer).removesuffix(" %"))


def _facts(comparison: FileComparison) -> str:
    made = "".join(
        f"<dt>{tables.badge(run)}</dt><dd>{escape(', '.join(filter(None, (file.path, file.recipe))))}</dd>"
        for run, file in enumerate(comparison.files)
    )
    return section("Which files", "", f"<dl class=facts>{made}</dl>")
