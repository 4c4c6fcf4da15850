"""Folders of pictures, prepared as image classifiers are usually evaluated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lloydmax.data.picture_files import check_sides, find, reason, regular, unreadable
from lloydmax.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of the channels of ImageNet's pictures, which most published weights expect."""
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
        size: int,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        resize: int,
        limit: int | None,
        workers: int,
    ) -> None:
        self.path = Path(path)
        self.files = find(self.path, limit)
        self.size = size
        self.channels = channels
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.resize = resize
        self.workers = workers

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Picture ``index`` as a float32 tensor of shape ``(channels, size, size)``.

        Raises:
            DataError: the file cannot be read as a picture.
        """
        from PIL import Image

        file = self.files[index]
        try:
            with Image.open(regular(file)) as picture:
                check_sides(picture)
                pixels = np.array(self._framed(_flattened(picture, "RGB" if self.channels == 3 else "L")))
        except Exception as error:
            raise DataError(reason(file, error)) from error
        tensor = torch.from_numpy(pixels).reshape(self.size, self.size, self.channels).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return tensor.to(torch.float32).div_(255).sub_(mean).div_(std).contiguous()

    def unreadable(self) -> dict[int, str]:
        """The files that are not pictures, by number, with the reason, told from their headers: a file that breaks
        off later is found when it is decoded."""
        return unreadable(self.files)

    def describe(self) -> str:
        """One line for people: how many pictures, from where, and how they are prepared."""
        kind = "images" if self.channels == 3 else "grayscale images"
        return (
            f"{len(self):,} {kind} from {self.path}, {self.size}x{self.size} "
            f"(shorter side to {self.resize}, centre crop), {self._normalisation()}"
        )

    def _normalisation(self) -> str:
        if (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            return "ImageNet mean and std"
        return f"mean {', '.join(map(str, self.mean))} and std {', '.join(map(str, self.std))}"

    def _framed(self, picture: Image.Image) -> Image.Image:
        """The centre square of the picture, its shorter side resized."""
        from PIL import Image

        width, height = picture.size
        shorter = min(width, height)
        width, height = self.resize * width // shorter, self.resize * height // shorter
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return picture.crop((left, top, left + self.size, top + self.size))


def images(
    path: str | os.PathLike[str],
    size: int = 224,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    limit: int | None = None,
    workers: int = 2,
) -> ImageFolder:
    """The pictures in a folder, at any depth, sorted by path, as a dataset of float32 tensors without labels.

    Each picture is turned upright (EXIF), laid on white where it is transparent, resized (bilinear,
    antialiased), cropped to its centre, scaled to [0, 1] and normalised. Of animations the first frame is
    used. Files and folders whose names begin with a dot are left out. Grey pictures of 16 bits, or in floats, are
    scaled to 8 bits. One warning counts pictures of kinds that cannot be read here.

    Args:
        path: the folder.
        size: height and width of the result.
        channels: 3 for RGB, 1 for grayscale.
        mean: what is subtracted from each channel; None: ImageNet's for RGB, 0.5 for grayscale.
        std: what each channel is divided by afterwards; None: likewise.
        resize: the length of the shorter side before the crop; None: ``round(size / 0.875)``.
        limit: at most so many pictures, spread evenly over the sorted list; None: all.
        workers: processes that decode, when the folder is large.

    Returns:
        A dataset of tensors of shape ``(channels, size, size)``.

    Raises:
        DataError: no folder, no pictures in it, or options that do not fit together.
    """
    if channels not in (1, 3):
        raise DataError(f"pictures are read with 1 or 3 channels, not {channels}: pass a Dataset of your own")
    if mean is None:
        mean = IMAGENET_MEAN if channels == 3 else (0.5,)
    if std is None:
        std = IMAGENET_STD if channels == 3 else (0.5,)
    if resize is None:
        resize = round(size / 0.875)
    if len(mean) != channels or len(std) != channels or not all(value > 0 for value in std):
        raise DataError(f"mean and std need {channels} numbers each, std above zero: not {mean} and {std}")
    if not 1 <= size <= resize or (limit is not None and limit < 1) or workers < 0:
        raise DataError(
            f"size must be from 1 to resize, limit at least 1, workers at least 0: not size={size}, "
            f"resize={resize}, limit={limit}, workers={workers}"
        )
    return ImageFolder(path, size, channels, mean, std, resize, limit, workers)


def image_channels(model: nn.Module) -> int:
    """The channels of the model's first convolution, 3 if it has none."""
    for module in model.modules():
        channels = getattr(module, "in_channels", None)
        if isinstance(channels, int) and hasattr(module, "kernel_size"):
            return channels
    return 3


def _flattened(picture: Image.Image, mode: str) -> Image.Image:
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
