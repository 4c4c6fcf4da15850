"""Folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lloydmax.errors import OutputError
from lloydmax.runtime.files import made_folder, path_of, shown, telling
from lloydmax.runtime.temporary import beside, sweep


def check_new_folder(out: str | os.PathLike[str]) -> Path:
    """Refuse a folder that cannot be made, or holds something.

    Raises:
        OutputError: it says why; nothing is left behind.
    """
    folder = path_of(out)
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        kind = "is not empty" if folder.is_dir() else "is a file"
        raise OutputError(f"{shown(out)}: {kind}: name a folder that does not exist yet")
    return made_folder(out, keep=False)


@contextmanager
def new_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` when the block ends, whole or not at all.

    Raises:
        OutputError: see :func:`check_new_folder`.
    """
    check_new_folder(out)
    target = Path(os.path.realpath(os.fsdecode(out)))
    made_folder(target.parent)
    sweep(target.parent)
    filled = beside(target.parent)
    with telling(out):
        filled.mkdir()
        try:
            yield filled
            filled.replace(target)
        finally:
            shutil.rmtree(filled, ignore_errors=True)
