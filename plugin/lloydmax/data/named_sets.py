"""Sets of Hugging Face's ``datasets``, by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from lloydmax.data.image_folder import flattened
from lloydmax.data.preparation import told
from lloydmax.errors import DataError
from lloydmax.runtime.text import counted, printable

PREFIX = "datasets:"
"""Of a name, as in ``datasets:imdb`` and ``datasets:cifar10:test``."""


class PictureRows(Dataset[Tensor]):
    """The pictures in a column of a set.

    Args:
        rows: of the set.
        column: of pictures of Pillow.
        channels: that the model takes, 1 or 3.
        prepare: makes an input of each.
    """

    def __init__(self, rows: Any, column: str, channels: int, prepare: Callable[[Any], Tensor]) -> None:
        self.rows, self.column, self.channels, self.prepare = rows, column, channels, prepare

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        """Picture ``index`` as a float32 tensor of shape ``(channels, height, width)``."""
        return self.prepare(flattened(self.rows[index][self.column], "RGB" if self.channels == 3 else "L"))

    def describe(self) -> str:
        """One line for people: how many pictures, from where, and how they are prepared."""
        return f"{counted(len(self), 'images')} in {self.column!r} of the set, {told(self.prepare)}"


def named_set(name: str) -> Any:
    """The rows of a set.

    Args:
        name: a name of the hub or a folder that ``save_to_disk`` wrote, with ``:SPLIT`` if not ``train``.

    Raises:
        DataError: datasets is missing, or cannot open it.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{PREFIX}{name}: pip install datasets") from error
    which, _, split = name.partition(":")
    try:
        opened: Any = datasets.load_from_disk(which) if Path(which).is_dir() else datasets.load_dataset(which)
    except Exception as error:  # whatever a host raises for what it cannot open
        raise DataError(f"{PREFIX}{name} cannot be opened: {printable(str(error), 300)}") from error
    if not isinstance(opened, dict):
        return opened
    if (split or "train") not in opened:
        raise DataError(f"{PREFIX}{name} has no split {split or 'train'!r}, but {', '.join(opened)}")
    return opened[split or "train"]


def picture_column(rows: Any) -> str | None:
    """The first column of pictures; ``None``: there is none."""
    features = getattr(rows, "features", None) or {}
    return next((name for name, kind in features.items() if type(kind).__name__ == "Image"), None)
