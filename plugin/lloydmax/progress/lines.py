"""Progress where nothing can be drawn, in a file or the log of a job: one plain line for each stage."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from lloydmax.hooks.hookspecs import hookimpl
from lloydmax.progress.bars import ahead, clock, news_of
from lloydmax.runtime import processes


class ProgressLines:
    """An event listener that writes a line for each finished stage; not for a stage within a stage.

    Args:
        stream: where to write; default: stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._open = 0

    @hookimpl
    def lloydmax_expected(self, seconds: float, bytes: int) -> None:
        """The first line."""
        if processes.writes():
            print(ahead(seconds, bytes), file=self._stream or sys.stderr, flush=True)

    @hookimpl
    def lloydmax_stage_started(self, stage: str, total: int | None) -> None:
        """One more is open."""
        self._open += 1

    @hookimpl
    def lloydmax_stage_finished(self, stage: str, seconds: float, metrics: dict[str, Any]) -> None:
        """Its line."""
        self._open -= 1
        if self._open == 0 and processes.writes():
            line = f"{stage:<14} {clock(seconds):>7}  {news_of(metrics)}".rstrip()
            print(line, file=self._stream or sys.stderr, flush=True)
