"""How a picture becomes the input of a model: its size, what is cut off, and how its values are scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lloydmax.errors import DataError
from lloydmax.runtime.text import quoted

if TYPE_CHECKING:
    from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of the channels of ImageNet's pictures, which most published weights expect."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""Of Pillow."""
CROPS = ("center", "none")
_SIZE, _MARGIN = 224, 0.875


@dataclass(frozen=True)
class Preparation:
    """One way to prepare pictures.

    Attributes:
        size: height and width of the result.
        resize: the picture is resized to cover this height and width, without ``crop`` to just these, and its centre is
            cut out.
        interpolation: of :data:`INTERPOLATIONS`, antialiased.
        mean: what is subtracted from each channel, of values from 0 to 1.
        std: what each channel is divided by afterwards.
        crop: whether the sides keep their ratio.
        origin: who says so, in words; empty: it is what is usual.
    """

    size: tuple[int, int]
    resize: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: bool = True
    origin: str = ""

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise DataError(f"interpolation is one of {', '.join(INTERPOLATIONS)}, not {quoted(self.interpolation)}")
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise DataError(f"mean and std are as many numbers, std above zero: not {self.mean} and {self.std}")
        if not all(1 <= least <= most for least, most in zip(self.size, self.resize, strict=True)):
            raise DataError(
                f"size must be from 1 to resize: not size={_sides(self.size)}, resize={_sides(self.resize)}"
            )

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for grayscale."""
        return len(self.mean)

    def __call__(self, picture: Image.Image) -> Tensor:
        """The input, float32 ``(channels, height, width)``, of an upright picture in 8 bits with as many channels."""
        pixels = torch.from_numpy(np.array(self._framed(picture))).reshape(*self.size, self.channels).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return pixels.to(torch.float32).div_(255).sub_(mean).div_(std).contiguous()

    def _framed(self, picture: Image.Image) -> Image.Image:
        from PIL import Image

        width, height = picture.size
        high, wide = self.resize
        if not self.crop:
            width, height = wide, high
        elif high * width >= wide * height:
            width, height = high * width // height, high
        else:
            width, height = wide, wide * height // width
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling[self.interpolation.upper()])
        left, top = round((width - self.size[1]) / 2), round((height - self.size[0]) / 2)
        return picture.crop((left, top, left + self.size[1], top + self.size[0]))

    def __str__(self) -> str:
        frame = f"shorter side to {min(self.resize)}, centre crop" if self.crop else "no crop"
        by = "" if self.interpolation == "bilinear" else f", {self.interpolation}"
        said = f", {self.origin}" if self.origin else ""
        return f"{_sides(self.size, always=True)} ({frame}{by}), {self._scale()}{said}"

    def _scale(self) -> str:
        if (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            return "ImageNet mean and std"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"mean {mean} and std {std}"


def preparation(
    channels: int = 3,
    size: int | tuple[int, int] | None = None,
    resize: int | tuple[int, int] | None = None,
    crop: str | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    own: Preparation | None = None,
) -> Preparation:
    """What is asked for; where nothing is, what the model's own says, and else what is usual.

    Args:
        channels: 3 for RGB, 1 for grayscale.
        size: height and width of the result, or one number for both; ``None``: 224.
        resize: the shorter side before the crop, without one not used; ``None``: as much larger than ``size`` as the
            model's own, or ``round(size / 0.875)``.
        crop: ``center``, or ``none``: the whole picture is squeezed into ``size``.
        interpolation: of :data:`INTERPOLATIONS`; ``None``: bilinear.
        mean: of each channel; ``None``: ImageNet's for RGB, 0.5 for grayscale.
        std: of each channel; ``None``: likewise.
        own: the model's own.

    Raises:
        DataError: values that do not fit together.
    """
    if channels not in (1, 3):
        raise DataError(f"pictures are read with 1 or 3 channels, not {channels}: pass a Dataset of your own")
    if own is not None and own.channels != channels:
        own = None
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != channels:
            raise DataError(f"{name} is a number for each of {channels} channels, not {tuple(values)}")
    if crop is not None and crop not in CROPS:
        raise DataError(f"crop is one of {', '.join(CROPS)}, not {quoted(crop)}")
    wanted = _both(size) if size is not None else own.size if own is not None else (_SIZE, _SIZE)
    cut = crop != "none" if crop is not None else own is None or own.crop
    if not cut:
        around = wanted
    elif resize is not None:
        around = _around(wanted, resize)
    elif own is not None and own.crop:
        around = tuple(max(side, round(side * o / s)) for side, o, s in zip(wanted, own.resize, own.size, strict=True))  # type: ignore[assignment]
    else:
        around = (round(wanted[0] / _MARGIN), round(wanted[1] / _MARGIN))
    given = any(value is not None for value in (size, resize, crop, interpolation, mean, std))
    usual = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.5,))
    return Preparation(
        wanted,
        around,
        interpolation or (own.interpolation if own is not None else "bilinear"),
        tuple(mean) if mean is not None else own.mean if own is not None else usual[0],
        tuple(std) if std is not None else own.std if own is not None else usual[1],
        cut,
        "" if own is None else f"{'what was not asked ' * given}as {own.origin} says",
    )


def told(prepare: object) -> str:
    """How pictures are prepared, in words."""
    return str(prepare) if isinstance(prepare, Preparation) else "prepared by the transform that was given"


def _both(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _around(size: tuple[int, int], resize: int | tuple[int, int]) -> tuple[int, int]:
    """The height and width that a shorter side means."""
    if not isinstance(resize, int):
        return resize[0], resize[1]
    least = min(size)
    return resize * size[0] // least, resize * size[1] // least


def _sides(sides: tuple[int, int], always: bool = False) -> str:
    return f"{sides[0]}x{sides[1]}" if always or sides[0] != sides[1] else str(sides[0])
