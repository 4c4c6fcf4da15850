"""Measurements that survive a kill: one JSON line each, looked up when the same run starts again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class Journal:
    """Results by key, in memory and, with a folder, in a file that only ever grows by whole lines.

    Args:
        folder: where the file goes; ``None``: nothing is written.
        name: first part of the file's name.
        identity: everything that the results depend on; runs that differ in it use different files.
    """

    def __init__(self, folder: Path | None, name: str, identity: Iterable[object]) -> None:
        digest = hashlib.blake2b("\n".join(map(str, identity)).encode(), digest_size=8).hexdigest()
        self.path = None if folder is None else folder / f"{name}-{digest}.jsonl"
        self.reused = 0
        self._known: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """The result under ``key``, made and written if it is not there; always as JSON gives it back."""
        if key in self._known:
            self.reused += 1
            return self._known[key]
        line = json.dumps([key, make()])
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        self._known[key] = json.loads(line)[1]
        return self._known[key]

    def _read(self, path: Path) -> None:
        """All whole lines; what a kill left of the last one is cut off."""
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                key, value = json.loads(line)
            except ValueError:
                continue
            self._known[key] = value
        if path.stat().st_size != len(whole):
            os.truncate(path, len(whole))
