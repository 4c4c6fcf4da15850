"""Locks on what a run keeps: of several runs that would write the same files one works, the others wait for it."""

from __future__ import annotations

import os
import stat
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lloydmax.errors import OutputError
from lloydmax.runtime import processes
from lloydmax.runtime.text import printable

_PAUSE = 0.1
"""Seconds between two looks at a lock that another run holds."""
_PLACE = 1 << 30
"""Where in the file Windows locks a byte: it cannot be read by others."""
_FLAGS = os.O_RDWR | os.O_CREAT
_FLAGS |= sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_NOINHERIT"))
_held: dict[Path, int] = {}
"""The thread that holds each lock of this process."""


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Hold a lock; a run that finds it taken says by whom, in a warning, and waits.

    The lock is the system's on an open file: it ends with the process, however that ends. Of processes that a launcher
    started together, the first holds it for all. Where a file system has no locks, nothing is held.

    Args:
        path: of the lock's file, which is removed in the end; ``None``: nothing is held.

    Raises:
        OutputError: the file cannot be made; or this thread holds the lock already, and would wait for itself.
    """
    if path is None or not processes.writes():
        yield
        return
    path = path.absolute()
    if _held.get(path) == threading.get_ident():
        raise OutputError(f"{path.parent}: a run in this workdir is started within the same run: give it another one")
    file = _taken(path)
    _held[path] = threading.get_ident()
    try:
        yield
    finally:
        del _held[path]
        with suppress(OSError):
            path.unlink()
        file.close()


def _taken(path: Path) -> IO[bytes]:
    """The open file of a lock that is held now, with the number of this process in it."""
    told = False
    while True:
        try:
            file = _opened(path)
        except OSError as error:
            raise OutputError(f"{path}: the lock of the run cannot be made ({error.strerror or error})") from error
        try:
            if not _lock(file):
                if not told:
                    told = True
                    file.seek(0)
                    other = printable(file.read(20).decode("ascii", "replace").strip()) or "another"
                    warnings.warn(
                        f"{path.parent}: process {other} works on the same run, which keeps its state there "
                        f"({path.name}): waiting until it ends",
                        stacklevel=4,
                    )
            elif _is_still(path, file):
                _sign(path, file)
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        if told:
            time.sleep(_PAUSE)


def _opened(path: Path) -> IO[bytes]:
    """The file of a lock, made where there is none. Nothing else is opened: what is written could destroy it.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    foreign = "it is a link or not an ordinary file: remove it"
    if path.is_symlink():  # where the system has no O_NOFOLLOW
        raise OSError(foreign)
    file = os.fdopen(os.open(path, _FLAGS, 0o666), "r+b", buffering=0)
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        file.close()
        raise OSError(foreign)
    return file


def _sign(path: Path, file: IO[bytes]) -> None:
    """Write the number of this process into a lock that it holds.

    Raises:
        OutputError: there is no room; the lock is removed.
    """
    try:
        file.truncate(0)
        file.seek(0)
        file.write(f"{os.getpid()}\n".encode())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise OutputError(f"{path}: the lock of the run cannot be written ({error.strerror}): make room") from error


def _is_still(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file is the one at its path: the run that held the lock before may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[bytes]) -> bool:
    """Lock an open file; whether nobody else holds it."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(_PLACE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        pass
    return True
