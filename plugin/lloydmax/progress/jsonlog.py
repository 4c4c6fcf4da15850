"""Progress for machines: every event as one JSON object on a line of its own."""

from __future__ import annotations

import json
import sys
import time
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from lloydmax.hooks.hookspecs import hookimpl
from lloydmax.runtime import files, processes

if TYPE_CHECKING:
    from lloydmax.codebook.codebook import Codebook


class JsonLog:
    """An event listener that writes JSON lines: ``listeners=[JsonLog()]``.

    Every line has the same keys: ``event`` (``expected``, ``stage_started``, ``step``, ``parameter_fitted``,
    ``stage_finished``, ``warning``, ``error``), ``stage``, ``index`` and ``total`` (units done, and in all),
    ``seconds`` since the stage started, and ``metrics``, an object; what is not known is ``null``.
    ``parameter_fitted`` has the parameter, its centroids and bits as metrics, ``warning`` and ``error`` a ``message``.
    Of several processes the first one writes.

    As a context manager it also writes the warnings of that time, in place of Python.

    Args:
        stream: where to write; default: stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._started: dict[str, float] = {}
        self._done: dict[str, tuple[int | None, int | None]] = {}
        self._catching = warnings.catch_warnings()

    def __enter__(self) -> JsonLog:
        self._catching.__enter__()
        warnings.showwarning = lambda message, *_, **__: self.write("warning", str(message))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._catching.__exit__(kind, error, trace)

    def write(self, event: str, message: str) -> None:
        """The line of something that is not progress: a ``warning`` or ``error``."""
        self._write(event, None, None, None, message=message)

    def _write(self, event: str, stage: str | None, index: int | None, total: int | None, **metrics: Any) -> None:
        if stage is not None:
            self._done[stage] = index, total
        if not processes.writes():
            return
        started = self._started.get(stage or "")
        line = {
            "event": event,
            "stage": stage,
            "index": index,
            "total": total,
            "seconds": None if started is None else round(time.perf_counter() - started, 4),
            "metrics": files.plain(metrics),
        }
        print(json.dumps(line, default=str), file=self._stream or sys.stderr, flush=True)

    @hookimpl
    def lloydmax_expected(self, seconds: float, bytes: int) -> None:
        """A line."""
        self._write("expected", None, None, None, seconds=round(seconds, 1), bytes=bytes)

    @hookimpl
    def lloydmax_stage_started(self, stage: str, total: int | None) -> None:
        """A line."""
        self._started[stage] = time.perf_counter()
        self._write("stage_started", stage, 0, total)

    @hookimpl
    def lloydmax_parameter_fitted(self, name: str, codebook: Codebook, index: int, total: int) -> None:
        """A line."""
        self._write("parameter_fitted", "fit", index, total, parameter=name, centroids=codebook.k, bits=codebook.bits)

    @hookimpl
    def lloydmax_step(self, step: str, index: int, total: int, metrics: dict[str, float]) -> None:
        """A line."""
        self._write("step", step, index, total, **metrics)

    @hookimpl
    def lloydmax_stage_finished(self, stage: str, seconds: float, metrics: dict[str, Any]) -> None:
        """A line."""
        self._write("stage_finished", stage, *self._done[stage], **metrics)
