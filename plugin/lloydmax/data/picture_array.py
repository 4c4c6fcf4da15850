"""Pictures in one array of bytes, prepared as those of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from lloydmax.data.preparation import told
from lloydmax.errors import DataError
from lloydmax.runtime.files import shown
from lloydmax.runtime.text import counted, printable

_GREY, _COLOUR = 3, 4
"""Axes of grey pictures, and of those with channels, first or last."""


class PictureArray(Dataset[Tensor]):
    """The pictures in a ``.npy`` file of uint8, ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``.

    Args:
        path: of the file, which is memory-mapped.
        channels: that the model takes, 1 or 3.
        prepare: makes an input of each.

    Raises:
        DataError: it cannot be read, or holds something else.
    """

    def __init__(self, path: str | os.PathLike[str], channels: int, prepare: Callable[[Any], Tensor]) -> None:
        self.path, self.channels, self.prepare = Path(path), channels, prepare
        self._array = opened(self.path)
        if not are_pictures(self._array):
            raise DataError(
                f"{shown(path)} holds {self._array.dtype} of shape {self._array.shape}; pictures are uint8, (samples, "
                "height, width), with 1, 3 or 4 channels last or first"
            )

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: int) -> Tensor:
        """Picture ``index`` as a float32 tensor of shape ``(channels, height, width)``."""
        from PIL import Image

        pixels = np.asarray(self._array[index])
        if pixels.ndim == _COLOUR - 1 and pixels.shape[-1] not in (1, 3, 4):
            pixels = pixels.transpose(1, 2, 0)
        pixels = pixels[..., 0] if pixels.ndim == _COLOUR - 1 and pixels.shape[-1] == 1 else pixels
        return self.prepare(Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB" if self.channels == 3 else "L"))

    def describe(self) -> str:
        """One line for people: how many pictures, from where, and how they are prepared."""
        return f"{counted(len(self), 'images')} from {self.path}, {told(self.prepare)}"


def opened(path: Path) -> Any:
    """The array in a ``.npy`` file, memory-mapped.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{shown(path)} cannot be read: {printable(str(error), 300)}") from error


def are_pictures(array: np.ndarray[Any, Any]) -> bool:
    """Whether these are pictures in bytes."""
    if array.dtype != np.uint8 or not len(array.shape) or not len(array):
        return False
    return array.ndim == _GREY or (array.ndim == _COLOUR and bool({array.shape[1], array.shape[-1]} & {1, 3, 4}))
