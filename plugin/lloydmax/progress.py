"""Progress on stderr: one line for each stage, with the number that matters and the time left."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lloydmax.hookspecs import hookimpl

if TYPE_CHECKING:
    from lloydmax.codebook import Codebook


class ProgressBars:
    """An event listener that draws; quiet where stderr is no terminal. Use it as a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[news]}"),
            console=console,
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}
        self._known: dict[str, float] = {}

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @hookimpl
    def lloydmax_stage_started(self, stage: str, total: int | None) -> None:
        """A new line."""
        self._tasks[stage] = self._progress.add_task(stage, total=total, news="")
        self._known = {}

    @hookimpl
    def lloydmax_parameter_fitted(self, name: str, codebook: Codebook, index: int, total: int) -> None:
        """Advance the line of the fit."""
        self._progress.update(self._tasks["fit"], completed=index, total=total, news=name)

    @hookimpl
    def lloydmax_step(self, step: str, index: int, total: int, metrics: dict[str, float]) -> None:
        """Advance the line of a recovery step."""
        if (task := self._tasks.get(step)) is not None:
            self._known |= metrics
            news = "  ".join(f"{key} {value:.4g}" for key, value in self._known.items())
            self._progress.update(task, completed=index, total=total, news=news)

    @hookimpl
    def lloydmax_stage_finished(self, stage: str, seconds: float, metrics: dict[str, Any]) -> None:
        """Close the line."""
        task = self._tasks.pop(stage)
        total = next(t.total for t in self._progress.tasks if t.id == task) or 1
        self._progress.update(task, completed=total, total=total)
