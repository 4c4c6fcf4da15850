"""Random views of batches, the same for student and teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from lloydmax import RecoveryError
from lloydmax.extend import Batch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat
from torch import Tensor

_AREA = (0.35, 1.0)
_ASPECT = (3 / 4, 4 / 3)
"""Share of the area, and width over height, of a crop that is enlarged."""
_CONTRAST = 0.4
_BRIGHTNESS = 0.4
"""How far the contrast is from 1 at most, and the brightness from 0, in deviations of the sample."""

View = Callable[[Tensor], Tensor]


class ViewOptions(BaseModel):
    """Options of the random views. Any of them makes the teacher run in every step, since none of its outputs can be
    kept: a step then costs about a third more. They are for images, floating inputs `(N, C, H, W)`; other inputs
    of the same batch stay as they are (`mixup` mixes every floating one).
    """

    model_config = ConfigDict(extra="forbid")

    augment: list[Literal["flip", "crop", "resized_crop", "color"]] = Field(
        default=[],
        description="random views, the same for student and teacher: `flip` (left-right, per sample), `crop` (shifts "
        "by up to an eighth, per batch), `resized_crop` (a part of 0.35 to 1 of the area, 3:4 to 4:3, enlarged to the "
        "full size, per sample) and `color` (contrast times 0.6 to 1.4, brightness by up to 0.4 of the sample's "
        "deviation, within the range of the batch, per sample).",
    )

    mixup: NonNegativeFloat = Field(
        default=0.0,
        description="alpha of Beta(alpha, alpha) for convex mixtures of two inputs; 0: none (Zhang et al. 2018).",
    )

    cutmix: NonNegativeFloat = Field(
        default=0.0,
        description="alpha of Beta(alpha, alpha) for the share of the area that a rectangle of another input leaves; "
        "0: none (Yun et al. 2019). With `mixup`, too, each batch gets one of the two at random.",
    )

    resize: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="height and width of images are multiplied by it, so that a step costs its square: for networks "
        "that take images of any size.",
    )


def are_plain(options: ViewOptions) -> bool:
    """Whether every batch is seen as it is."""
    return not (_are_of_images(options) or options.mixup)


def _are_of_images(options: ViewOptions) -> bool:
    return bool(options.augment or options.cutmix or options.resize < 1)


class Views:
    """Random views of batches, the same for student and teacher; on the device of the batch.

    Args:
        options: which views.
        generator: on the CPU; draws flips, crops, colours and partners.
        seed: of the shares of mixtures.
    """

    def __init__(self, options: ViewOptions, generator: torch.Generator, seed: int) -> None:
        self.options, self.generator = options, generator
        self.beta = np.random.default_rng(seed)
        self.of_images, self.plain = _are_of_images(options), are_plain(options)

    def reseed(self, seed: int) -> None:
        """Draw the shares of mixtures anew."""
        self.beta = np.random.default_rng(seed)

    def __call__(self, batch: Batch) -> Batch:
        """A view of the floating tensors of ``batch``.

        Raises:
            RecoveryError: the views are of images, and no input is one.
        """
        if self.plain:
            return batch
        if self.of_images and not any(map(_is_image, batch.tensors())):
            shapes = [f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in batch.tensors()]
            raise RecoveryError(
                "'augment', 'cutmix' and 'resize' are for images, floating inputs (N, C, H, W), not "
                f"{' and '.join(shapes)}: leave them out ('mixup' takes any floating input)"
            )
        views = [self._drawn(kind, len(batch)) for kind in ("resized_crop", "flip", "crop", "color")]
        if self.options.resize < 1 and "resized_crop" not in self.options.augment:
            views.insert(0, lambda x: F.interpolate(x, self._size(x), mode="bilinear", antialias=True))
        of_images = [view for view in views if view is not None]
        mixed = self._mixture(len(batch))

        def view(x: Tensor) -> Tensor:
            if _is_image(x):
                for change in of_images:
                    x = change(x)
            return mixed(x) if x.is_floating_point() else x

        return batch.map(view)

    def _drawn(self, kind: str, count: int) -> View | None:
        if kind not in self.options.augment:
            return None
        if kind == "flip":
            flips = self._uniform(count) < 0.5
            return lambda x: torch.where(_each(flips, x), x.flip(-1), x)
        if kind == "crop":
            where = self._uniform(2).tolist()
            return lambda x: _shifted(x, where)
        if kind == "resized_crop":
            area = _AREA[0] + (_AREA[1] - _AREA[0]) * self._uniform(count)
            aspect = torch.exp(math.log(_ASPECT[0]) + math.log(_ASPECT[1] / _ASPECT[0]) * self._uniform(count))
            sides = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()]).clamp(max=1.0)
            corners = (1 - sides) * self._uniform(2 * count).view(2, count)
            return lambda x: _enlarged(x, sides, corners, self._size(x))
        contrast = 1 + _CONTRAST * (2 * self._uniform(count) - 1)
        brightness = _BRIGHTNESS * (2 * self._uniform(count) - 1)
        return lambda x: _recolored(x, contrast, brightness)

    def _size(self, x: Tensor) -> tuple[int, int]:
        height, width = (max(1, round(side * self.options.resize)) for side in x.shape[-2:])
        return height, width

    def _mixture(self, count: int) -> View:
        mixup, cutmix = self.options.mixup, self.options.cutmix
        if not (mixup or cutmix):
            return lambda x: x
        partner = torch.randperm(count, generator=self.generator)
        cut = bool(cutmix) and not (mixup and float(self._uniform(1)) < 0.5)
        share = float(self.beta.beta(*(2 * (cutmix if cut else mixup,))))
        if not cut:
            return lambda x: share * x + (1 - share) * x[partner.to(x.device)]
        centre = self._uniform(2).tolist()
        return lambda x: _pasted(x, partner, share, centre) if _is_image(x) else x

    def _uniform(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator)


def _is_image(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_floating_point()


def _each(values: Tensor, x: Tensor) -> Tensor:
    """One value a sample, to broadcast with images."""
    return values.to(x.device)[:, None, None, None]


def _shifted(x: Tensor, where: list[float]) -> Tensor:
    height, width = x.shape[-2:]
    top, left = max(1, height // 8), max(1, width // 8)
    padded = F.pad(x, (left, left, top, top), mode="replicate")
    down, right = int(where[0] * (2 * top + 1)), int(where[1] * (2 * left + 1))
    return padded[..., down : down + height, right : right + width]


def _enlarged(x: Tensor, sides: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """A rectangle of every image, bilinearly sampled at another size.

    Args:
        x: images ``(N, C, H, W)``.
        sides: height and width of the rectangles, ``(2, N)``, in shares of the image's.
        corners: top and left, likewise.
        size: height and width of the result.
    """
    centres = 2 * corners + sides - 1
    height, width, zero = sides[0], sides[1], torch.zeros(len(x))
    affine = torch.stack([width, zero, centres[1], zero, height, centres[0]], 1).view(-1, 2, 3).to(x.device)
    grid = F.affine_grid(affine, [*x.shape[:2], *size], align_corners=False)
    seen = F.grid_sample(x.float(), grid, "bilinear", "border", align_corners=False)
    last = x.is_contiguous(memory_format=torch.channels_last)
    return seen.to(x.dtype, memory_format=torch.channels_last if last else torch.contiguous_format)


def _recolored(x: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    mean, deviation = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    low, high = x.amin((0, 2, 3), keepdim=True), x.amax((0, 2, 3), keepdim=True)
    factor, shift = _each(contrast, x).to(x.dtype), _each(brightness, x).to(x.dtype)
    return ((x - mean) * factor + mean + shift * deviation).clamp(low, high)


def _pasted(x: Tensor, partner: Tensor, share: float, centre: list[float]) -> Tensor:
    """Images with the same rectangle, ``1 - share`` of the area, of their partners."""
    edges = []
    for length, middle in zip(x.shape[-2:], centre, strict=True):
        half = math.sqrt(1 - share) / 2
        edges.append(slice(round(max(0.0, middle - half) * length), round(min(1.0, middle + half) * length)))
    rows, columns = edges
    other = x[partner.to(x.device), :, rows, columns]
    x = x.clone()
    x[..., rows, columns] = other
    return x
