"""Other libraries at work without their notes, in one thread: all others warn, log and print as before."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_turn = threading.Lock()


@contextmanager
def quiet(bars: bool = True) -> Iterator[None]:
    """Silence the warnings and log records up to errors of this thread.

    Args:
        bars: also what it writes to ``sys.stderr`` otherwise, such as progress bars.
    """
    thread = _Here()
    with ExitStack() as stack:
        stack.callback(thread.leave)
        entry: Any = ("ignore", thread, Warning, None, 0)
        warnings.filters.insert(0, entry)  # type: ignore[attr-defined]
        stack.callback(_remove, warnings.filters, entry)
        for handler in _handlers():
            handler.addFilter(thread)
            stack.callback(handler.removeFilter, thread)
        if bars:
            stack.enter_context(_deaf_stderr(thread))
        yield


class _Here(logging.Filter):
    """What tells this thread from others, until it has left: a filter of log records, and of warnings by ``match``."""

    def __init__(self) -> None:
        super().__init__()
        self._thread: int | None = threading.get_ident()

    def leave(self) -> None:
        """Silence no more: copies of the warning filters that others hold may still have this one."""
        self._thread = None

    def match(self, *_: object) -> bool:
        """As of a regular expression for the text of a warning."""
        return self._thread == threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is let through."""
        return record.levelno > logging.ERROR or record.thread != self._thread


def _handlers() -> list[logging.Handler]:
    """All that may get a log record."""
    found = [logging.lastResort] if logging.lastResort else []
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        found += getattr(logger, "handlers", [])
    return found


@contextmanager
def _deaf_stderr(thread: _Here) -> Iterator[None]:
    with _turn:
        sys.stderr = mine = _Deaf(sys.stderr, thread)
    try:
        yield
    finally:
        with _turn:
            if sys.stderr is mine:
                sys.stderr = mine.stream
            outer: Any = sys.stderr
            while isinstance(outer, _Deaf):
                if outer.stream is mine:
                    outer.stream = mine.stream
                outer = outer.stream


class _Deaf:
    """A stream that lets everything through but what one thread writes."""

    def __init__(self, stream: Any, thread: _Here) -> None:
        self.stream, self._thread = stream, thread

    def write(self, text: str) -> Any:
        """Write, or do not."""
        return len(text) if self._thread.match() else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _remove(filters: Any, entry: Any) -> None:
    if entry in filters:
        filters.remove(entry)
