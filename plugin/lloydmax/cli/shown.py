"""How progress, results and errors of a command are shown."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from lloydmax.errors import LloydmaxError
from lloydmax.progress.bars import ProgressBars, drawn
from lloydmax.progress.jsonlog import JsonLog
from lloydmax.progress.lines import ProgressLines
from lloydmax.runtime import processes


@contextmanager
def errors() -> Iterator[None]:
    """Errors that lloydmax raises on purpose end in one line and status 2, not in a traceback; warnings are lines."""
    context = click.get_current_context()
    as_json = context.params.get("log_json")
    try:
        with JsonLog() if as_json else plain_warnings():
            yield
    except (LloydmaxError, OSError) as error:
        if as_json:
            JsonLog().write("error", str(error))
        else:
            click.echo(f"lloydmax: {error}", err=True)
        context.exit(2)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings for the person at the command, without the place in the code."""
    usual = warnings.formatwarning

    def plain(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category is UserWarning:
            return f"lloydmax: warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual


@contextmanager
def progress(quiet: bool, log_json: bool) -> Iterator[dict[str, Any]]:
    """The arguments of a run that say how its progress is shown."""
    if log_json:
        with JsonLog() as log:
            yield {"progress": False, "listeners": [log]}
    elif quiet or drawn():
        yield {"progress": not quiet}
    else:
        yield {"progress": False, "listeners": [ProgressLines()]}


@contextmanager
def listeners() -> Iterator[list[object]]:
    """What hears a stage before the run itself, as the options of the command say."""
    told = click.get_current_context().params
    if told.get("log_json"):
        yield [JsonLog()]
    elif told.get("quiet"):
        yield []
    elif drawn():
        with ProgressBars() as bars:
            yield [bars]
    else:
        yield [ProgressLines()]


def show(data: Any, text: str, as_json: bool) -> None:
    """Print the result, once per run."""
    if processes.writes():
        click.echo(json.dumps(data, indent=2) if as_json else text)
