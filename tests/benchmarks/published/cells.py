"""Cells of the evidence: each is one experiment that leaves one small JSON file, so that a killed run resumes."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t for two-sided 95 % intervals, by the number of values."""

ONE_RUN = 0.5
"""Points that one run may be off: about the standard error of a difference on 10,000 pictures, and of a seed."""


@dataclass(frozen=True)
class Cell:
    """One experiment.

    Attributes:
        table: letter of its table.
        key: what identifies it in the table, ``seed`` included; deterministic given these.
        run: does it; returns figures (JSON-able).
        priority: lower runs first.
        teacher: that must be trained before.
    """

    table: str
    key: dict[str, Any]
    run: Callable[[], dict[str, Any]]
    priority: int = 1
    teacher: str | None = None

    @property
    def name(self) -> str:
        """Its file name, without the suffix."""
        return "-".join([self.table, *(str(value).replace(" ", "_") for value in self.key.values())])


@dataclass(frozen=True)
class Results:
    """The finished cells of one table."""

    found: Sequence[dict[str, Any]] = field(default_factory=tuple)

    def values(self, figure: str, **key: Any) -> list[Any]:
        """A figure of every cell whose key has these items, by seed."""
        return [
            cell["figures"][figure]
            for cell in self.found
            if all(cell["key"].get(name) == wanted for name, wanted in key.items()) and figure in cell["figures"]
        ]

    def mean(self, figure: str, **key: Any) -> float:
        """Mean over the matching cells; NaN where there are none."""
        values = self.values(figure, **key)
        return statistics.fmean(values) if values else math.nan

    def text(self, figure: str, form: str = "{:.2f}", scale: float = 100.0, **key: Any) -> str:
        """Mean and 95 % interval for a table: ``91.20 ± 0.11``; a dash where there is nothing."""
        return interval([scale * value for value in self.values(figure, **key)], form)


class Store:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def done(self, cell: Cell) -> bool:
        """Whether the cell has its figures."""
        return self._path(cell).exists()

    def run(self, cell: Cell) -> dict[str, Any]:
        """Run a cell and keep its figures; times are CPU seconds (``seconds``) and wall seconds."""
        cpu, wall = time.process_time(), time.perf_counter()
        figures = cell.run()
        result = {
            "table": cell.table,
            "key": cell.key,
            "figures": figures,
            "seconds": round(time.process_time() - cpu, 2),
            "wall": round(time.perf_counter() - wall, 2),
        }
        temporary = self._path(cell).with_suffix(".part")
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._path(cell))
        return result

    def load(self, cells: Iterable[Cell]) -> Results:
        """The results of those cells that are done, in their order."""
        return Results([json.loads(self._path(cell).read_text("utf-8")) for cell in cells if self.done(cell)])

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name}.json"


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    return T_95.get(len(values), 1.96) * statistics.stdev(values) / math.sqrt(len(values))


def interval(values: Sequence[float], form: str = "{:.2f}") -> str:
    """``mean ± half width``, the mean alone for a single value, a dash for none."""
    if not values:
        return "-"
    mean = form.format(statistics.fmean(values))
    return mean if len(values) < 2 else f"{mean} ± {form.format(half_width(values))}"


def markdown(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table under a bold title; rows with nothing but dashes after the label are left out."""
    kept = [row for row in rows if any(cell != "-" for cell in row[1:])]
    if not kept:
        return f"**{title}**: not measured yet.\n"
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in kept), ""])


def above(differences: Sequence[float], bound: float = 0.0) -> bool | None:
    """Whether the mean of differences (points) lies above the bound: ``None`` where its interval holds the bound."""
    mean, wide = statistics.fmean(differences), half_width(differences)
    wide = ONE_RUN if math.isnan(wide) else wide
    return None if abs(mean - bound) <= wide else mean > bound


def told(differences: Sequence[float], form: str = "{:.2f}") -> str:
    """``mean ± half width points``, or the value of one run."""
    return f"{interval(differences, form)} points" + (" in one run" if len(differences) == 1 else "")


@dataclass(frozen=True)
class Claim:
    """Something published, and what our figures say to it.

    Attributes:
        text: with the figures.
        holds: ``None`` where the figures cannot decide, and where there are none.
        why: what the figures say about the reason, for a claim that does not hold.
        measured: whether there are figures.
    """

    text: str
    holds: bool | None = None
    why: str = ""
    measured: bool = True


def verdict(claims: Iterable[Claim]) -> str:
    """One sentence."""
    groups: dict[str, list[str]] = {"reproduced": [], "not reproduced": [], "undecided": [], "not measured": []}
    for claim in claims:
        decided = "undecided" if claim.holds is None else "reproduced" if claim.holds else "not reproduced"
        why = f", {claim.why}" if claim.why and not claim.holds and claim.measured else ""
        groups[decided if claim.measured else "not measured"].append(claim.text + why)
    sentence = "; ".join(f"{words}: {', '.join(texts)}" for words, texts in groups.items() if texts)
    return sentence[:1].upper() + sentence[1:] + "."
