"""Progress on stderr: one line for each stage, with its pace, the time left and the number that matters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lloydmax.hooks.hookspecs import hookimpl
from lloydmax.runtime.text import duration, rich, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task, TaskID
    from rich.text import Text

    from lloydmax.codebook.codebook import Codebook

UNITS = {
    "teacher": "samples",
    "measure": "samples",
    "fit": "layers",
    "sweep": "choices",
    "search": "choices",
    "estimate": "parts",
    "price": "layers",
    "importance": "samples",
    "calibrate": "samples",
    "ranges": "samples",
    "correct_bias": "layers",
    "match_moments": "layers",
    "renormalize": "layers",
    "reconstruct": "layers",
    "finish": "layers",
    "equalize": "rounds",
}
"""What the stages count; all others count ``it``, iterations."""


class ProgressBars:
    """An event listener that draws; quiet where stderr is not a terminal. Use it as a context manager.

    A stage within a stage has a line of its own while it lasts.

    Args:
        console: where to draw; default: stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        progress = rich("progress")
        console = console or rich("console").Console(stderr=True)
        assert console is not None
        alone = threading.current_thread() is threading.main_thread()  # the streams are those of all threads
        self._progress: Progress = progress.Progress(
            progress.TextColumn("{task.description:<11}"),
            progress.BarColumn(bar_width=16),
            _column(_count),
            _column(_pace),
            progress.TextColumn("{task.fields[news]}"),
            console=console,
            redirect_stdout=alone,
            redirect_stderr=alone,
            disable=not drawn(console),
        )
        self._open: list[tuple[str, TaskID]] = []
        self._known: dict[str, dict[str, float]] = {}

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @hookimpl
    def lloydmax_expected(self, seconds: float, bytes: int) -> None:
        """A line above the others."""
        if not self._progress.disable:
            self._progress.console.print(ahead(seconds, bytes))

    @hookimpl
    def lloydmax_stage_started(self, stage: str, total: int | None) -> None:
        """A new line."""
        indent = "  " if self._open else ""
        task = self._progress.add_task(indent + stage, total=total, news="", unit=UNITS.get(stage.split()[0], "it"))
        self._open.append((stage, task))
        self._known[stage] = {}

    @hookimpl
    def lloydmax_parameter_fitted(self, name: str, codebook: Codebook, index: int, total: int) -> None:
        """Advance the line of the fit."""
        self._advance("fit", index, total, f"{codebook.k} centroids  {name}")

    @hookimpl
    def lloydmax_step(self, step: str, index: int, total: int, metrics: dict[str, float]) -> None:
        """Advance the line of a stage."""
        known = self._known.setdefault(step, {})
        known |= metrics
        self._advance(step, index, total, news_of(known))

    @hookimpl
    def lloydmax_stage_finished(self, stage: str, seconds: float, metrics: dict[str, Any]) -> None:
        """Close the line."""
        _, task = self._open.pop()
        if self._open:
            self._progress.remove_task(task)
            return
        line = next(t for t in self._progress.tasks if t.id == task)
        done = line.completed or 1
        news = news_of(metrics) or line.fields["news"]
        self._progress.update(task, completed=done, total=done, news=news)  # a bar that pulsed is full

    def _advance(self, stage: str, index: int, total: int, news: str) -> None:
        for name, task in reversed(self._open):
            if name == stage:
                self._progress.update(task, completed=index, total=total, news=news)
                return


def drawn(console: Console | None = None) -> bool:
    """Whether bars can be drawn there; default: on stderr."""
    console = console or rich("console").Console(stderr=True)
    assert console is not None
    return console.is_terminal and not console.is_dumb_terminal


def _column(cell: Callable[[Task], Text]) -> ProgressColumn:
    """A column whose cells a function makes; rich is imported with the first bar."""
    from rich.progress import ProgressColumn

    kind: type[ProgressColumn] = type("Column", (ProgressColumn,), {"render": lambda _, task: cell(task)})
    return kind()


def _count(task: Task) -> Text:
    """``704/2850``; empty where nothing is counted."""
    from rich.text import Text

    counted = task.total is not None and task.total > 1
    return Text(f"{task.completed:,.0f}/{task.total:,.0f}" if counted else "", style="progress.download")


def _pace(task: Task) -> Text:
    """``8.1 it/s  1:10 left``, and ``8.2 it/s  in 2:03`` when the stage is finished."""
    from rich.text import Text

    speed = task.completed / task.finished_time if task.finished_time else task.speed
    pace = "" if not speed or task.total == 1 else _rate(speed, task.fields["unit"])
    if task.finished:
        when = f"in {clock(task.finished_time or 0)}"
    elif task.time_remaining is None:
        when = clock(task.elapsed or 0)
    else:
        when = f"{clock(task.time_remaining)} left"
    return Text(f"{pace:>11} {when:>9}", style="progress.remaining", no_wrap=True)


def _rate(speed: float, unit: str) -> str:
    """Units in a second, or seconds for a unit where that is more."""
    return f"{speed:.{1 if speed < 100 else 0}f} {unit}/s" if speed >= 0.1 else f"{1 / speed:.0f} s/{unit}"


def ahead(seconds: float, bytes: int) -> str:
    """What a run will take: ``About 7 minutes, 2.1 GB of memory``."""
    return f"About {duration(seconds)}, {bytes / 1e9:.1f} GB of memory"


def clock(seconds: float) -> str:
    """``1:10``, with hours where there are some."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def news_of(metrics: dict[str, Any]) -> str:
    """The numbers that matter: the loss and how good the model is; of a stage without these, its first two."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    known: list[str] = [name for name in ("loss", "agreement", "kl", "score") if name in numbers]
    if set(known) <= {"score"}:
        known = sorted({"mse", "score"} & set(numbers)) or list(numbers)[:2]
    return "  ".join(
        f"{name.removesuffix('_bytes').replace('_', ' ')} {_written(name, numbers[name])}" for name in known
    )


_SHARES = ("agreement", "moved", "corrected", "widened", "reduction")


def _written(name: str, value: float) -> str:
    if name.startswith(_SHARES):
        return f"{100 * value:.1f} %"
    if name.endswith("_bytes"):
        return size(value)
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
