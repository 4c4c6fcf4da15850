"""The report of one compression, with its ways out: JSON, a page for a browser, tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lloydmax.choosing.search import SearchResult
from lloydmax.choosing.sweep import Sweep
from lloydmax.errors import ReportError
from lloydmax.report.charts import LETTERS
from lloydmax.report.curves import DamageCurves
from lloydmax.report.figures import Figures
from lloydmax.report.page import page
from lloydmax.report.reading import read_fields
from lloydmax.report.terminal import report_tables
from lloydmax.runtime import files, processes
from lloydmax.runtime.text import render


class Report(Figures):
    """What :func:`lloydmax.compress` measured; see :class:`~lloydmax.report.figures.Figures` for its attributes."""

    def to_json(self, path: str | Path) -> None:
        """Write the report as JSON.

        Raises:
            OutputError: the folder is missing or not writable, the disk is full.
        """
        if processes.writes():
            files.write_json(path, self.to_dict())

    @classmethod
    def from_json(cls, path: str | Path) -> Report:
        """Read what :meth:`to_json` wrote.

        Raises:
            ReportError: it cannot be read, is not a report, or one of another version of lloydmax.
        """
        return cls(**read_fields(path))

    def to_html(
        self,
        path: str | Path,
        other: Report | Sequence[Report] | None = None,
        sweep: Sweep | SearchResult | DamageCurves | None = None,
    ) -> None:
        """Write the report as one self-contained page for a browser, which loads nothing from anywhere.

        Args:
            path: of the ``.html`` file.
            other: a second report, or up to seven more, whose figures stand in the same charts.
            sweep: a sweep of the model, or a search, which is shown with what it chose; or either as read back by
                :class:`lloydmax.report.curves.DamageCurves`.

        Raises:
            ReportError: more reports than one page shows. OutputError: the folder is missing or not writable, the disk
                is full.
        """
        others = [] if other is None else [other] if isinstance(other, Report) else list(other)
        if len(others) >= len(LETTERS):
            raise ReportError(f"one page shows {len(LETTERS)} reports at most, not {1 + len(others)}: give fewer")
        if processes.writes():
            reports = [self, *others]
            files.write_text(path, page(reports, None if sweep is None else DamageCurves.of(sweep)))

    def __str__(self) -> str:
        return render(*report_tables(self))
