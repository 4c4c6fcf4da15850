"""Memory in files: mapped, so that the system keeps in memory what is used, and with all of its space reserved."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from lloydmax.errors import OutputError
from lloydmax.runtime.files import shown, why
from lloydmax.runtime.temporary import TemporaryFolder
from lloydmax.runtime.text import size as in_words


class Mapped:
    """Files that are mapped into memory, in a :class:`~lloydmax.runtime.temporary.TemporaryFolder`.

    Args:
        workdir: where the folder is made, with the first file; ``None``: the system's temporary folder.
        name: with which the names of the files begin.
    """

    def __init__(self, workdir: str | os.PathLike[str] | None, name: str) -> None:
        self._workdir, self._name = workdir, name
        self._files = 0
        self._folder: TemporaryFolder | None = None
        self._maps: list[mmap.mmap] = []

    def take(self, size: int) -> Tensor:
        """``size`` bytes, uint8, in a file of their own; a write into them cannot fail for want of space, which would
        end the process.

        Raises:
            OutputError: no file can be made, or there is no room for it; it says where, and how much is free.
        """
        place = self._workdir or tempfile.gettempdir()
        path = None
        try:
            if self._folder is None:
                self._folder = TemporaryFolder(self._workdir)
            path = self._folder.path / f"{self._name}{self._files}.bin"
            _reserve(path, size)
            with path.open("r+b") as file:
                self._maps.append(mmap.mmap(file.fileno(), size))
        except OSError as error:
            if path is not None:
                path.unlink(missing_ok=True)
            reason = why(error, path or place)
            raise OutputError(f"{shown(place)}: no room for {in_words(size)} in a file: {reason}") from error
        self._files += 1
        return torch.frombuffer(self._maps[-1], dtype=torch.uint8)

    def let_go(self) -> None:
        """Take the pages out of this process's memory; the system has them, and reads them again when they are used."""
        for one in self._maps if hasattr(mmap, "MADV_DONTNEED") else ():
            one.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Remove the files; what is mapped from them stays until it is dropped."""
        self._maps = []
        if self._folder is not None:
            self._folder.remove()
            self._folder = None


def _reserve(path: Path, size: int) -> None:
    """Make a file of ``size`` bytes whose space is really there."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            if shutil.disk_usage(path.parent).free < size:
                raise OSError(f"less than {size:,} bytes free")
            file.truncate(size)
