"""Files that are written whole or not at all, and what can be told of that before there is anything to write."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lloydmax.errors import LloydmaxError, OutputError
from lloydmax.runtime.temporary import beside, sweep
from lloydmax.runtime.text import printable, size

_LONGEST = 4096
"""Characters of a path in a message: Linux takes no longer one."""
_ANYBODY_WRITES = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says where there is no room."""
_PLAIN_LIST = re.compile(r'\[\n([^\[\]{}"]*)\n\s*\]')


def path_of(path: object, error: type[LloydmaxError] = OutputError) -> Path:
    """What is given as a path.

    Raises:
        error: it is neither text, bytes nor ``os.PathLike``.
    """
    try:
        return Path(os.fsdecode(path))  # type: ignore[arg-type]
    except TypeError:
        raise error(f"a path is text or os.PathLike, not of type {type(path).__name__}") from None


def shown(path: object) -> str:
    """A path for a message, on one line; the type of what is not one."""
    try:
        return printable(os.fsdecode(path), _LONGEST)  # type: ignore[arg-type]
    except TypeError:
        return f"of type {type(path).__name__}"


def refusal(path: str | os.PathLike[str], folder: bool = False) -> str | None:
    """Why nothing can be written to a path; ``None`` where it can. Leaves nothing behind.

    Args:
        path: of a file, which may exist already, in a folder that must; links are followed.
        folder: whether the file may be a folder, as some formats are.
    """
    try:
        given = os.fsdecode(path)
        target = Path(os.path.realpath(given))
        about = None if not os.path.lexists(target) else target.stat()
        if not given or given.endswith(("/", os.sep)):
            return "is a folder's name: name the file in it"
        if about is not None and stat.S_ISDIR(about.st_mode) and not folder:
            return "is a directory: name the file in it"
        if about is not None and stat.S_ISREG(about.st_mode) and not about.st_mode & _ANYBODY_WRITES:
            return "is read-only: remove it, or name another file"
        if about is not None and not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
            return "is not an ordinary file"
        if not target.parent.is_dir():
            return f"the folder {target.parent} does not exist"
        os.lstat(target.parent / target.name)
    except FileNotFoundError:
        pass
    except TypeError:
        return "is not a path: give text or os.PathLike"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return _closed(target.parent)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path to which nothing can be written; see :func:`refusal`.

    Raises:
        OutputError: it says why.
    """
    if reason := refusal(path):
        raise OutputError(f"{shown(path)}: {reason}")


def check_room(path: str | os.PathLike[str], needed: int) -> None:
    """Refuse a file for which the disk has no room.

    Args:
        path: of the file; a file that it replaces counts as long as the new one is not whole.
        needed: bytes.

    Raises:
        OutputError: it says how much is free.
    """
    folder = Path(os.path.realpath(path_of(path))).parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(f"{shown(path)}: the file will have {size(needed)}, but {folder} has {size(free)} free")


def made_folder(path: str | os.PathLike[str], keep: bool = True) -> Path:
    """A folder to write into, made with its parents where it is missing.

    Args:
        path: of the folder.
        keep: ``False``: it is only looked whether it can be made; nothing is left behind.

    Raises:
        OutputError: it cannot be made, or written into; nothing is left behind then.
    """
    folder = path_of(path)
    missing: list[Path] = []
    try:
        missing += (place for place in (folder, *folder.parents) if not os.path.lexists(place))
        if not os.fspath(path):
            raise ValueError("is empty: name a folder, '.' is the one that you are in")
        folder.mkdir(parents=True, exist_ok=True)
        reason = _closed(folder)
    except FileExistsError:
        reason = "is not a folder"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    for place in missing if reason or not keep else ():
        with suppress(OSError, ValueError):
            place.rmdir()
    if reason:
        raise OutputError(f"{shown(path)}: {reason}")
    return folder


def _closed(folder: Path) -> str | None:
    """Why no file can be made in a folder; ``None`` where it can."""
    probe = beside(folder)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        return f"no file can be made in {folder} ({error.strerror})"
    return None


@contextmanager
def telling(path: object, error: type[LloydmaxError] = OutputError) -> Iterator[None]:
    """What keeps a file from being written within becomes ``error``, in one line with the path and the reason.

    Raises:
        error: instead of an ``OSError``; it says how much is free where that is the reason.
    """
    try:
        yield
    except LloydmaxError as found:
        if isinstance(found, OSError) and not isinstance(found, error):
            raise error(str(found)) from found
        raise
    except OSError as found:
        raise error(f"{shown(path)}: cannot be written: {why(found, path)}") from found


def why(error: OSError, path: object) -> str:
    """The reason of an error in words; how much is free where the disk is full."""
    reason = printable(error.strerror or str(error))
    if isinstance(error, shutil.Error):  # of a whole folder: what kept the last file from being copied
        reason = printable(str(error.args[0][-1][-1]))
    elif error.errno not in _FULL:
        return reason
    with suppress(OSError, TypeError, ValueError):
        folder = Path(os.path.realpath(os.fsdecode(path))).parent  # type: ignore[arg-type]
        reason += f" ({size(shutil.disk_usage(folder).free)} free in {printable(str(folder), _LONGEST)})"
    return reason


@contextmanager
def replacing(path: str | os.PathLike[str], needed: int = 0) -> Iterator[Path]:
    """A name beside a file, to write to: what is there when the block ends becomes the file, which appears whole or not
    at all, also after a loss of power. The name is removed where the block fails.

    Names that killed runs left in the same folder are removed once they are older than a day.

    Args:
        path: of the file; links are followed. An existing file is replaced, and keeps nothing.
        needed: bytes that will be written, as far as that is known: for them there has to be room.

    Raises:
        OutputError: the folder is missing or not writable, the disk is full, or something else than a file is there.
    """
    check_writable(path)
    check_room(path, needed)
    with telling(path):
        target = Path(os.path.realpath(os.fsdecode(path)))
        with _replacement(target) as temporary:
            yield temporary


@contextmanager
def _replacement(target: Path) -> Iterator[Path]:
    """A new file in a folder of its own beside another, which it replaces when the block ends: libraries that write it
    may have temporary files of their own, which go with the folder."""
    sweep(target.parent)
    folder = beside(target.parent)
    temporary = folder / target.name
    try:
        folder.mkdir(mode=0o700)
        with temporary.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield temporary
        temporary.chmod(mode)
        _flush(temporary, os.O_RDWR)
        temporary.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        _flush(target.parent, os.O_RDONLY)


def _flush(path: Path, flags: int) -> None:
    """Have the disk hold what a file or a folder is now."""
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file (UTF-8), see :func:`replacing`.

    Raises:
        OutputError: as there.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write a file, see :func:`replacing`.

    Raises:
        OutputError: as there.
    """
    with replacing(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write :func:`plain` data as indented JSON, with lists of numbers on one line.

    Raises:
        OutputError: see :func:`write_text`.
    """
    text = json.dumps(plain(data), indent=2, allow_nan=False)
    write_text(path, _PLAIN_LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")


def plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists; numbers that JSON cannot hold (infinite, NaN) become ``None``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
