"""Pictures are prepared as hosts prepare them, in the words that their files use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lloydmax import DataError, images
from lloydmax.data import own_preparation, unlabelled
from lloydmax.data.own_preparation import of_processor, of_timm, of_transforms
from lloydmax.data.preparation import preparation
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

TIMM = {
    "input_size": (3, 48, 48), "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
    "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4),
}  # fmt: skip
VIT = {
    "do_resize": True, "size": {"height": 32, "width": 40}, "resample": 3, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3,
}  # fmt: skip


def picture(width: int = 90, height: int = 61) -> Image.Image:
    torch.manual_seed(0)
    return Image.fromarray(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8).numpy())


@pytest.mark.parametrize("sides", [(90, 61), (61, 90), (50, 50)])
@pytest.mark.parametrize("by", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
def test_as_torchvision(sides: tuple[int, int], by: InterpolationMode) -> None:
    theirs = ImageClassification(crop_size=32, resize_size=40, interpolation=by)
    ours = of_transforms(theirs, "torchvision's X")
    assert ours is not None
    torch.testing.assert_close(ours(picture(*sides)), theirs(picture(*sides)))


class OfTimm(nn.Conv2d):
    def __init__(self, **more: Any) -> None:
        super().__init__(3, 4, 3)
        self.pretrained_cfg = TIMM | more


def test_as_timm(tmp_path: Path) -> None:
    found = own_preparation(nn.Sequential(OfTimm(), nn.Flatten()))
    assert found is not None and (found.size, found.resize) == ((48, 48), (53, 53))
    assert (found.interpolation, found.mean, found.crop) == ("bicubic", (0.5, 0.4, 0.3), True)
    squeezed = of_timm(TIMM | {"crop_mode": "squash", "crop_pct": 1.0})
    assert squeezed is not None and not squeezed.crop and squeezed(picture()).shape == (3, 48, 48)
    picture().save(tmp_path / "a.png")
    source = unlabelled(tmp_path, OfTimm())
    assert next(source.first(1).tensors()).shape == (1, 3, 48, 48)
    assert "shorter side to 53" in source.describe() and "model's own configuration" in source.describe()
    for odd in ({}, {"input_size": None}, TIMM | {"mean": "x"}, TIMM | {"std": (0, 0, 0)}):
        assert of_timm(odd) is None


@pytest.mark.parametrize(
    ("change", "size", "resize", "crop", "mean", "std"),
    [
        ({}, (32, 40), (32, 40), False, 0.5, 0.25),
        ({"size": 32}, (32, 32), (32, 32), False, 0.5, 0.25),
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": 32}, (32, 32), (40, 40), True, 0.5, 0.25),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, 224), (256, 256), True, 0.5, 0.25),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384), (384, 384), False, 0.5, 0.25),
        ({"do_normalize": False}, (32, 40), (32, 40), False, 0.0, 1.0),
        ({"rescale_factor": 1 / 127.5}, (32, 40), (32, 40), False, 0.25, 0.125),
        ({"do_rescale": False, "image_mean": 127.5, "image_std": 63.75}, (32, 40), (32, 40), False, 0.5, 0.25),
    ],
)  # fmt: skip
def test_as_processors(
    tmp_path: Path, change: Any, size: Any, resize: Any, crop: bool, mean: float, std: float
) -> None:
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(VIT | change))
    found = of_processor(file)
    assert found is not None and (found.size, found.resize, found.crop) == (size, resize, crop)
    assert found.mean == pytest.approx((mean,) * 3) and found.std == pytest.approx((std,) * 3)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"size": {"longest_edge": 9}}', '{"size": "x"}'])
def test_a_processor_that_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content)
    assert of_processor(tmp_path / "preprocessor_config.json") is None and of_processor(tmp_path / "no") is None


def test_the_size_that_the_layers_ask_for() -> None:
    model = OfTimm()
    model.img_size = (64, 64)
    found = own_preparation(model)
    assert found is not None and (found.size, found.resize) == ((64, 64), (71, 71))


def test_what_is_asked_comes_first() -> None:
    own = of_timm(TIMM)
    found = preparation(3, size=96, interpolation="lanczos", own=own)
    assert (found.size, found.resize, found.interpolation) == ((96, 96), (106, 106), "lanczos")
    assert found.mean == (0.5, 0.4, 0.3) and "what was not asked as" in str(found)
    assert preparation(3, crop="none", own=own).resize == (48, 48)
    assert preparation(1, own=own).mean == (0.5,) and not preparation(1, own=own).origin
    wide = preparation(3, size=(32, 64), resize=40)
    assert wide.resize == (40, 80) and wide(picture()).shape == (3, 32, 64)


def test_arrays_of_bytes(tmp_path: Path) -> None:
    pixels = np.stack([np.asarray(picture())] * 3)
    wanted = preparation(3, 32)(picture())
    for name, array in (("last", pixels), ("first", pixels.transpose(0, 3, 1, 2))):
        np.save(tmp_path / f"{name}.npy", array)
        found = images(tmp_path / f"{name}.npy", 32)
        assert len(found) == 3 and torch.equal(found[1], wanted) and "3 images" in found.describe()
        assert len(unlabelled(found, OfTimm())) == 3
    np.save(tmp_path / "grey.npy", pixels[..., 0])
    assert images(tmp_path / "grey.npy", 32, channels=1)[0].shape == (1, 32, 32)
    np.save(tmp_path / "floats.npy", pixels / 255)
    with pytest.raises(DataError, match=r"holds float64 .*; pictures are uint8"):
        images(tmp_path / "floats.npy")


def test_a_transform_of_ones_own_and_bad_files(tmp_path: Path) -> None:
    for name in "abcdefgh":
        picture().save(tmp_path / f"{name}.png")
    found = images(tmp_path, transform=ImageClassification(crop_size=16, resize_size=20), skip_bad=0.3)
    assert found[0].shape == (3, 16, 16) and "the transform that was given" in found.describe()
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="2 of 8 samples left out"):
        unlabelled(found, OfTimm())
    with pytest.raises(DataError, match=r"2 of 8 samples cannot be used, more than 1%"):
        unlabelled(images(tmp_path, 16), OfTimm())
