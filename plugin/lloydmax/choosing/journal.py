"""Measurements that survive a kill: one line each, with a checksum, looked up when the same run starts again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lloydmax.errors import OutputError
from lloydmax.recovery.resume import Traces
from lloydmax.runtime import processes, state
from lloydmax.runtime.files import replacing
from lloydmax.runtime.locks import locked

_SUM = 16
"""Characters of a checksum: a line is one, a space, and JSON."""
_CUT = re.compile(rb"[0-9a-f]{0,16}|[0-9a-f]{16} (\[[ -~]*)?")
"""What a kill may leave of a line; a loss of power leaves other bytes."""


class Journal:
    """Results by key, in memory and, with a folder, in a file that only ever grows by whole lines.

    A damaged line, or one with something else in it, is told and made again; the damaged file is set aside.

    Args:
        folder: where the file goes; ``None``: nothing is written.
        name: first part of the file's name.
        identity: a digest of everything that the results depend on; runs that differ in it use different files.
        traces: what making a result changes beside it; it is kept where it has changed.
    """

    def __init__(self, folder: Path | None, name: str, identity: bytes, traces: Traces | None = None) -> None:
        self.path = None if folder is None else folder / f"{name}-{identity.hex()[:16]}.jsonl"
        self.reused = 0
        self._known: dict[str, tuple[Any, str | None]] = {}
        self._lines: dict[str, bytes] = {}
        self._traces = traces
        self._before = self._told()
        if self.path is not None and os.path.lexists(self.path):
            self._read(self.path)

    @classmethod
    @contextmanager
    def alone(cls, folder: Path | None, name: str, identity: bytes, traces: Traces | None = None) -> Iterator[Journal]:
        """A journal that no other run writes meanwhile; see :func:`lloydmax.runtime.locks.locked`."""
        lock = None if folder is None else folder / f"{name}-{identity.hex()[:16]}.lock"
        with locked(lock):
            yield cls(folder, name, identity, traces)

    def get(self, key: str, make: Callable[[], Any], take: Callable[[Any], Any] = lambda made: made) -> Any:
        """The result under ``key``, made and written if it is not there; always as JSON gives it back.

        Args:
            key: names it.
            make: makes it, as data for JSON.
            take: what this returns, of what JSON gives back; one of :data:`lloydmax.runtime.state.UNFIT` where that is
                something else: then the file is set aside, and the result made again.

        Raises:
            OutputError: it cannot be written.
        """
        if key in self._known:
            try:
                return self._again(key, take)
            except state.UNFIT as error:
                del self._known[key], self._lines[key]
                if self.path is not None:
                    self._mend(self.path, f"what it holds of {key!r} is something else: {error}")
        made, now = make(), self._told()
        line = json.dumps([key, made, None if now == self._before else now])
        self._before = now
        if self.path is not None and processes.writes():
            self._write(self.path, line)
        self._lines[key] = f"{self._sum(line)} {line}".encode()
        self._known[key] = json.loads(line)[1], None
        return take(self._known[key][0])

    def _again(self, key: str, take: Callable[[Any], Any]) -> Any:
        """A result that is known, and what making it changed, once."""
        made, traces = self._known[key]
        found = take(made)
        if traces is not None and self._traces is not None:
            self._traces.load(state.loads(traces))
            self._before = traces
        self._known[key] = made, None
        self.reused += 1
        return found

    def _told(self) -> str | None:
        """What a result may change beside itself, as it is now."""
        return None if self.path is None or self._traces is None else state.dumps(self._traces.state())

    def _write(self, path: Path, line: str) -> None:
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{self._sum(line)} {line}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{path}: a measurement cannot be kept ({error.strerror}): make room or give another workdir; the same "
                "call goes on from those that were kept before"
            ) from error

    def _read(self, path: Path) -> None:
        """All whole lines; what a kill left of the last one is cut off."""
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise OSError("it is not an ordinary file")
            *lines, rest = path.read_bytes().split(b"\n")
        except OSError as error:
            state.set_aside(path, error.strerror or str(error))
            return
        whole = [self._take(line) for line in lines]
        if self._take(rest[:-1]) or not all(whole) or not _CUT.fullmatch(rest):
            self._mend(path, "some of its lines are not as they were written")
        elif rest and processes.writes():
            os.truncate(path, path.stat().st_size - len(rest))

    def _mend(self, path: Path, reason: str) -> None:
        """Set the file aside; what is known of it is kept."""
        if processes.writes():
            state.set_aside(path, reason)
            with replacing(path) as temporary:
                temporary.write_bytes(b"".join(line + b"\n" for line in self._lines.values()))

    def _take(self, line: bytes) -> bool:
        """Whether a line is whole; then what it holds is known."""
        try:
            told, text = line[: _SUM + 1].decode("ascii"), line[_SUM + 1 :].decode("utf-8")
            if told != f"{self._sum(text)} ":
                return False
            key, made, traces = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            return False
        if not isinstance(key, str) or not isinstance(traces, str | None):
            return False
        self._known[key], self._lines[key] = (made, traces), line
        return True

    def _sum(self, text: str) -> str:
        name = "" if self.path is None else self.path.name
        return hashlib.sha256(f"{name}\n{text}".encode()).hexdigest()[:_SUM]
