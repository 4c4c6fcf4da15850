"""Folders of pictures, prepared as image classifiers are usually evaluated."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

from lloydmax.data.left_out import MOST
from lloydmax.data.picture_array import PictureArray
from lloydmax.data.picture_files import check_sides, find, reason, regular, unreadable
from lloydmax.data.preparation import Preparation, preparation, told
from lloydmax.errors import DataError
from lloydmax.runtime.arguments import number
from lloydmax.runtime.text import counted

if TYPE_CHECKING:
    from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]
_MOST_16_BITS = 65535
_WHITE = 255
_SLIGHT = 0.05
"""How far values in floats may lie beyond black and white, which are 1 apart."""
_OVERSHOOT, _FEW = 0.5, 0.05
"""How far this share of them may, as resizing by cubic curves leaves them."""


class ImageFolder(Dataset[Tensor]):
    """The pictures below a folder; see :func:`images`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        channels: int,
        prepare: Callable[[Any], Tensor],
        limit: int | None,
        workers: int,
        skip_bad: float = MOST,
    ) -> None:
        self.path = Path(path)
        self.files = find(self.path, limit)
        self.channels, self.prepare = channels, prepare
        self.workers, self.skip_bad = workers, skip_bad

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Picture ``index`` as a float32 tensor of shape ``(channels, height, width)``.

        Raises:
            DataError: the file cannot be read as a picture.
        """
        from PIL import Image

        file = self.files[index]
        try:
            with Image.open(regular(file)) as picture:
                check_sides(picture)
                return self.prepare(flattened(picture, "RGB" if self.channels == 3 else "L"))
        except Exception as error:
            raise DataError(reason(file, error)) from error

    def unreadable(self) -> dict[int, str]:
        """The files that are not pictures, by number, with the reason, told from their headers: a file that breaks
        off later is found when it is decoded."""
        return unreadable(self.files)

    def describe(self) -> str:
        """One line for people: how many pictures, from where, and how they are prepared."""
        kind = "images" if self.channels == 3 else "grayscale images"
        return f"{counted(len(self), kind)} from {self.path}, {told(self.prepare)}"


def images(
    path: str | os.PathLike[str],
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | tuple[int, int] | None = None,
    limit: int | None = None,
    workers: int = 2,
    *,
    crop: str | None = None,
    interpolation: str | None = None,
    own: Preparation | None = None,
    transform: Callable[[Any], Tensor] | None = None,
    skip_bad: float = MOST,
) -> ImageFolder | PictureArray:
    """The pictures in a folder, at any depth, sorted by path, as a dataset of float32 tensors without labels; or those
    in a ``.npy`` file of uint8, ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``.

    Each picture is turned upright (EXIF), laid on white where it is transparent, resized (antialiased), cropped to its
    centre, scaled to [0, 1] and normalised. Of animations the first frame is
    used. Files and folders whose names begin with a dot are left out. Grey pictures of 16 bits, or in floats, are
    scaled to 8 bits. One warning counts pictures of kinds that cannot be read here.

    Args:
        path: the folder, or the file.
        size: height and width of the result, or one number for both; ``None``: 224.
        channels: 3 for RGB, 1 for grayscale.
        mean: what is subtracted from each channel; None: ImageNet's for RGB, 0.5 for grayscale.
        std: what each channel is divided by afterwards; None: likewise.
        resize: the length of the shorter side before the crop; None: ``round(size / 0.875)``.
        limit: at most so many pictures, spread evenly over the sorted list; None: all.
        workers: processes that decode, when the folder is large.
        crop: ``center``, or ``none``: the whole picture is squeezed into ``size``.
        interpolation: ``bilinear`` (``None``), ``bicubic``, ``nearest``, ``lanczos``, ``box`` or ``hamming``.
        own: what a model says of its pictures, in place of what is usual, see :func:`lloydmax.data.own_preparation`.
        transform: in place of all that: a function from a picture of Pillow to a tensor, ``weights.transforms()`` of
            torchvision for example.
        skip_bad: share of the files that may be left out because they cannot be read; one may be in any case.

    Returns:
        A dataset of tensors of shape ``(channels, height, width)``.

    Raises:
        DataError: no folder, no pictures in it, or options that do not fit together.
    """
    if (limit is not None and limit < 1) or workers < 0:
        raise DataError(f"limit must be at least 1, workers at least 0: not limit={limit}, workers={workers}")
    skip_bad = number("skip_bad", skip_bad, DataError, most=1.0)
    how = preparation(channels, size, resize, crop, interpolation, mean, std, own)
    prepare = how if transform is None else transform
    if Path(path).suffix == ".npy" and Path(path).is_file():
        return PictureArray(path, channels, prepare)
    return ImageFolder(path, channels, prepare, limit, workers, skip_bad)


def image_channels(model: nn.Module) -> int:
    """The channels of the model's first convolution, 3 if it has none."""
    for module in model.modules():
        channels = getattr(module, "in_channels", None)
        if isinstance(channels, int) and hasattr(module, "kernel_size"):
            return channels
    return 3


def flattened(picture: Image.Image, mode: str) -> Image.Image:
    """The picture upright, opaque and in 8 bits a channel."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):  # more than 8 bits a pixel, which Pillow would clip instead of scale
        upright = Image.fromarray(_in_8_bits(np.asarray(upright), upright.mode.startswith("I;16")))
    if upright.has_transparency_data:
        opaque = Image.new("RGBA", upright.size, "white")
        opaque.alpha_composite(upright.convert("RGBA"))
        upright = opaque
    return upright.convert(mode)


def _in_8_bits(values: Array, sixteen: bool) -> Array:
    """Grey values of 16 or 32 bits or in floats as uint8 of the same shape, scaled from the range that they fill.

    Floats up to 1 are shares of white; other values have 8 bits if they are up to 255, and 16 if up to 65,535. Of
    floats, a few that lie a little beyond black and white are clipped.

    Raises:
        DataError: negative or larger values, or some that are not finite: white cannot be told.
    """
    if values.dtype.kind == "f":
        values = _clipped(values)
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > _MOST_16_BITS:
        raise DataError(
            f"its values are {values.dtype} from {low:g} to {high:g}, and what is white cannot be told: "
            "scale them to 0 to 1"
        )
    if values.dtype.kind == "f" and high <= 1:
        return (values * 255).round().astype(np.uint8)
    return (values.astype(np.int64) >> (8 if sixteen or high > _WHITE else 0)).astype(np.uint8)


def _clipped(values: Array) -> Array:
    """Floats without what lies beyond black and white, if that is little; white is 1, 255 or 65,535."""
    for white in (1, _WHITE, _MOST_16_BITS):
        if _little(values / white - 1):
            return values.clip(0, white) if _little(-values / white) else values
    return values


def _little(beyond: Array) -> bool:
    return bool((beyond > _SLIGHT).mean() <= _FEW and not (beyond > _OVERSHOOT).any())
