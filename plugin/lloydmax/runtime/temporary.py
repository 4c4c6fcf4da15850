"""Temporary files and folders: how they are named, and how those of killed runs go away."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there age alone tells
    fcntl = None  # type: ignore[assignment]

STALE = 24 * 3600
"""Seconds after which what is named as temporary belongs to no run that still needs it, unless its lock is held."""
_LOCK = "lock"


def beside(place: Path) -> Path:
    """A name in a folder that :func:`sweep` knows as temporary; nothing has it."""
    return place / f".lloydmax-{secrets.token_hex(8)}.tmp"


def sweep(place: Path) -> None:
    """Remove what killed runs left in a folder: folders whose process has ended, and whatever is older than a day."""
    for left in place.glob(".lloydmax-*.tmp"):
        with suppress(OSError):
            folder = left.is_dir() and not left.is_symlink()
            held = _held(left / _LOCK) if folder else None
            if held is False or (held is None and time.time() - left.lstat().st_mtime > STALE):
                shutil.rmtree(left) if folder else left.unlink()


class TemporaryFolder:
    """A folder for large files. It is removed with this object or at exit, after a kill by the next run that uses the
    same place; a run in parallel leaves it alone.

    Args:
        place: the folder that it lies in; ``None``: the system's temporary folder.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, place: str | os.PathLike[str] | None = None) -> None:
        parent = Path(tempfile.gettempdir() if place is None else place)
        sweep(parent)
        self.path = beside(parent)
        self.path.mkdir(mode=0o700)
        self.remove = weakref.finalize(self, _remove, self.path, _take(self.path), os.getpid())


def _take(folder: Path) -> int | None:
    """Hold the lock of a folder: its descriptor, or ``None`` where there are no locks."""
    if fcntl is None:
        return None
    lock = folder / f"{_LOCK}.new"  # it gets its name when it is held: no one may find it free
    opened = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.rename(folder / _LOCK)
    except OSError:
        os.close(opened)
        return None
    return opened


def _held(lock: Path) -> bool | None:
    """Whether a process holds a lock; ``None``: it cannot be told."""
    if fcntl is None:
        return None
    try:
        opened = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(opened)
    return False


def _remove(folder: Path, lock: int | None, process: int) -> None:
    """Only in the process that made it: a fork has a copy of the object."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)
