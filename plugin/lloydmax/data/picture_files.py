"""The files of pictures below a folder: found, passed over, not readable."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lloydmax.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"])
_HEIF = 'pip install "lloydmax[heif]"'
_RAW = "camera raw: convert them, as rawpy does"
_CONVERT = "convert them to .png"
_OTHERS = {
    **dict.fromkeys([".heic", ".heif", ".hif"], _HEIF),
    **dict.fromkeys([".avif", ".jp2", ".j2k", ".jpx", ".jfif", ".jpe"], "pip install --upgrade pillow"),
    ".jxl": "pip install pillow-jxl-plugin",
    **dict.fromkeys(
        [".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw", ".3fr", ".iiq"], _RAW
    ),
    ".svg": "drawings: convert them to .png, as cairosvg does",
    **dict.fromkeys([".psd", ".tga", ".exr", ".hdr", ".dcm", ".pcx", ".xcf", ".eps", ".dds"], _CONVERT),
}
"""Suffixes of other pictures, with what reads them."""
_BY_PILLOW = frozenset([".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpx", ".jfif", ".jpe", ".jxl"])
"""Those that are read where the Pillow that is installed, or a plugin of it, can."""
_LONGEST = 100
"""Times the shorter side that the longer one of a picture may be."""
_THREADS = 8
"""That open files to look at their headers, which is waiting for a disk."""


def find(folder: Path, limit: int | None) -> list[Path]:
    """The pictures below a folder, sorted by path; of many, ``limit`` of them, spread evenly.

    One warning counts files whose suffix says that they are pictures, but which cannot be read.

    Raises:
        DataError: there is no such folder, or no picture below it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}")
    found: list[Path] = []
    passed: Counter[str] = Counter()
    seen: set[str] = set()
    wanted = SUFFIXES | _readable_others()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(root, name) for name in files if not name.startswith(".")):
            if (suffix := path.suffix.lower()) in wanted:
                found.append(path)
            elif suffix in _OTHERS:
                passed[suffix] += 1
    told = ", ".join(f"{count:,} {suffix} ({_OTHERS[suffix]})" for suffix, count in passed.most_common())
    if not found:
        but = f", but {told}" if passed else ""
        raise DataError(f"no pictures in {folder} or below it; looked for {' '.join(sorted(wanted))}{but}")
    if passed:
        warnings.warn(f"{passed.total():,} pictures below {folder} were passed over: {told}", stacklevel=4)
    found.sort()
    if limit is None or limit >= len(found):
        return found
    return [found[number * len(found) // limit] for number in range(limit)]


def unreadable(files: Sequence[Path]) -> dict[int, str]:
    """The files whose header is not that of a picture, by number, with the reason; each one is opened, not decoded."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return {number: why for number, why in enumerate(pool.map(_why_not, files)) if why}


def stamps(files: Sequence[Path]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Size in bytes and time of the last change in nanoseconds of each file, ``(files, 2)``; -1 of one that is gone."""

    def stamp(file: Path) -> tuple[int, int]:
        try:
            about = file.stat()
        except OSError:
            return -1, -1
        return about.st_size, about.st_mtime_ns

    return np.array([stamp(file) for file in files], np.int64)


def reason(file: Path, error: Exception) -> str:
    """Why a file cannot be read as a picture, with its path, in one line."""
    from PIL import UnidentifiedImageError

    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        why = "not a picture" if file.stat().st_size else "the file is empty"
    elif isinstance(error, OSError) and error.strerror:
        why = error.strerror
    return f"{file}: {why}"


def regular(file: Path) -> Path:
    """The file, if it is an ordinary one: to open a pipe would wait for ever.

    Raises:
        DataError: it is something else.
    """
    if file.exists() and not file.is_file():
        raise DataError("not an ordinary file")
    return file


def check_sides(picture: Image.Image) -> None:
    """Refuse a strip, whose longer side is so many times the shorter that resized it would fill the memory.

    Raises:
        DataError: it is one.
    """
    if max(picture.size) > _LONGEST * min(picture.size):
        raise DataError(f"its sides are {picture.width} and {picture.height} pixels: cut such strips into pictures")


def _why_not(file: Path) -> str:
    from PIL import Image

    try:
        with Image.open(regular(file)) as picture:
            check_sides(picture)
            return ""
    except Exception as error:
        return reason(file, error)


@cache
def _readable_others() -> frozenset[str]:
    """The suffixes beyond the usual ones that Pillow reads here, its plugins registered."""
    from PIL import Image

    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    with suppress(ImportError):
        import_module("pillow_jxl")
    known = Image.registered_extensions()
    return frozenset(suffix for suffix in _BY_PILLOW if known.get(suffix) in Image.OPEN)
