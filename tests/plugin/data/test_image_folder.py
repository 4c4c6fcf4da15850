"""Folders of pictures: found, prepared as torchvision does, refused with the name of the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from lloydmax.data import images, picture_files, unlabelled
from lloydmax.errors import DataError
from PIL import Image
from samples import conv, read
from torch import nn
from torch.utils.data import DataLoader


def checkers(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pictures_are_prepared_as_torchvision_does(tmp_path):
    from torchvision.transforms import v2

    for number, size in enumerate([(50, 40), (31, 64), (40, 40), (300, 17)]):
        Image.fromarray(checkers(*size, number)).save(tmp_path / f"{number}.png")
    reference = v2.Compose(
        [v2.Resize(37), v2.CenterCrop(32), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        + [v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )
    folder = images(tmp_path, size=32)
    assert len(folder) == 4
    for number, picture in enumerate(folder):
        assert picture.shape == (3, 32, 32) and picture.dtype == torch.float32
        expected = reference(Image.open(tmp_path / f"{number}.png"))
        assert torch.allclose(picture, expected, atol=1e-5)
        if number == 3:
            break


def test_folders_are_searched_at_any_depth(tmp_path):
    for name in ("b/deep/2.JPG", "a/1.jpeg", "3.bmp", "a/4.webp", "a/5.tiff", "6.gif", "7.pgm"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path)
    for name in ("a/._1.jpeg", ".hidden/x.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not a picture")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    source = unlabelled(tmp_path, conv())
    assert len(source) == 7
    assert source.deterministic
    _, values = read(source)
    assert values.shape == (7, 3, 224, 224)
    line = source.describe()
    assert line.startswith(f"7 images from {tmp_path}, 224x224") and "ImageNet mean and std" in line
    assert source.dataset.files == images(tmp_path).files
    names = [str(file.relative_to(tmp_path)) for file in images(tmp_path).files]
    assert names == sorted(names)
    assert [f.name for f in images(tmp_path, limit=3).files] == [Path(names[i]).name for i in (0, 2, 4)]
    loader = DataLoader(images(tmp_path, size=8), batch_size=2)
    assert read(unlabelled(loader, conv()))[1].shape == (7, 3, 8, 8)


def test_folders_are_known_to_be_deterministic(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    source = unlabelled(images(tmp_path, size=8), conv())
    (tmp_path / "a.png").unlink()
    assert source.deterministic  # without reading


def test_grayscale_for_models_of_one_channel(tmp_path):
    Image.new("RGB", (10, 10), (255, 0, 0)).save(tmp_path / "red.png")
    Image.fromarray(np.full((10, 10), 40000, np.uint16)).save(tmp_path / "sixteen.png")
    source = unlabelled(tmp_path, conv(1))
    _, values = read(source)
    assert values.shape == (2, 1, 224, 224)
    assert values[0, 0, 0, 0].item() == pytest.approx((76 / 255 - 0.5) / 0.5)
    assert values[1, 0, 0, 0].item() == pytest.approx((156 / 255 - 0.5) / 0.5)  # scaled, not clipped
    assert "grayscale" in source.describe() and "mean 0.5 and std 0.5" in source.describe()
    plain = images(tmp_path, size=4, channels=1, mean=[0.0], std=[1.0])
    assert plain[0].max() <= 1
    with pytest.raises(DataError, match="1 or 3 channels, not 4"):
        unlabelled(tmp_path, conv(4))
    assert read(unlabelled(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(3, 1))))[1].shape[1] == 3


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "b.png")
    Image.new("P", (8, 8), 0).save(tmp_path / "c.png", transparency=0)
    Image.new("RGBA", (8, 8), (0, 0, 0, 255)).save(tmp_path / "d.png")
    folder = images(tmp_path, size=8, mean=[0.0] * 3, std=[1.0] * 3)
    assert [folder[i].mean().item() for i in range(4)] == [1, 1, 1, 0]


def test_exif_orientation_is_respected(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise: the left half is then on top
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    (picture,) = (images(tmp_path, size=16, resize=16, mean=[0.0] * 3, std=[1.0] * 3)[i] for i in (0,))
    assert picture[:, :8].mean() == 1 and picture[:, 8:].mean() == 0


@pytest.mark.parametrize("many", [256, 1])
def test_a_broken_picture_is_named(tmp_path, monkeypatch, many):
    monkeypatch.setattr("lloydmax.data.opening.MANY_PICTURES", many)  # 1: read by worker processes
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=f"1 of 2 samples left out.*{tmp_path / 'b.png'}: not a picture"):
        source = unlabelled(images(tmp_path, size=8), conv())
    assert source._loading["num_workers"] == (0 if many == 256 else 2)
    assert read(source)[0].tolist() == [0]
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 3 samples .*b\.png: not a picture.*c\.png: the file is empty") as caught:
        unlabelled(images(tmp_path, size=8), conv())
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("many", [256, 1])
def test_a_picture_that_breaks_off_is_left_out_when_it_is_decoded(tmp_path, monkeypatch, many):
    monkeypatch.setattr("lloydmax.data.opening.MANY_PICTURES", many)
    for name in "ab":
        Image.fromarray(checkers(200, 200)).save(tmp_path / f"{name}.jpg")
    whole = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])
    source = unlabelled(images(tmp_path, size=8), conv())
    with pytest.warns(UserWarning, match=r"1 of 2 samples left out.*b\.jpg: image file is truncated"):
        assert read(source)[0].tolist() == [0]


def test_pictures_of_other_kinds_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_files, "_readable_others", lambda: frozenset())  # no plugin of Pillow is installed
    for name in ("a.heic", "b.HEIC", "c.cr2", "d.svg", "notes.txt"):
        (tmp_path / name).write_bytes(b"1")
    with pytest.raises(DataError, match=r"but 2 \.heic \(pip install \"lloydmax\[heif\]\"\)"):
        images(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning) as told:
        assert len(images(tmp_path)) == 1
    (warning,) = told
    assert "4 pictures below" in str(warning.message) and "1 .cr2 (camera raw" in str(warning.message)


@pytest.mark.parametrize(
    ("dtype", "most", "words"),
    [(np.float32, 1, ""), (np.float32, 255, ""), (np.float32, 65535, ""), (np.uint16, 65535, "")]
    + [(np.int32, 255, ""), (np.int32, 65535, ""), (np.float32, 1e6, "0 to 1e[+]06"), (np.float32, -1, "-1 to -0")]
    + [(np.float32, np.nan, "cannot be told"), (np.int32, 2**30, "cannot be told")],
)
def test_grey_pictures_of_more_than_8_bits_are_scaled(tmp_path, dtype, most, words):
    grey = np.linspace(0, 1, 256).repeat(4).reshape(32, 32)
    Image.fromarray((grey * most).astype(dtype)).save(tmp_path / "a.tif")
    Image.fromarray((grey * 255).astype(np.uint8)).save(tmp_path / "b.png")
    folder = images(tmp_path, size=32, resize=32, mean=[0.0] * 3, std=[1.0] * 3)
    if words:
        with pytest.raises(DataError, match=f"a.tif.*{words}"):
            folder[0]
    else:
        assert (folder[0] - folder[1]).abs().max() < 0.01


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
@pytest.mark.parametrize("beyond", [[1.001], [-0.001], [1.2, -0.1], [1 + 1e-7] * 900])
def test_floats_a_little_beyond_black_and_white_are_clipped(tmp_path, white, beyond):
    grey = np.linspace(0, 1, 1024, dtype=np.float32)
    grey[: len(beyond)] = beyond
    for name, values in {"a.tif": grey, "b.tif": grey.clip(0, 1)}.items():
        Image.fromarray(values.reshape(32, 32) * np.float32(white)).save(tmp_path / name)
    folder = images(tmp_path, size=32, resize=32, mean=[0.0] * 3, std=[1.0] * 3)
    assert (folder[0] - folder[1]).abs().max() < 0.005 and folder[0].max() > 0.9


@pytest.mark.parametrize("values", [np.linspace(-1, 1, 64), np.linspace(-0.5, 0.5, 64), np.linspace(-300, 200, 64)])
def test_floats_around_zero_are_refused(tmp_path, values):
    Image.fromarray(values.reshape(8, 8).astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="what is white cannot be told"):
        images(tmp_path, size=8, resize=8)[0]


def test_cmyk_and_palettes_are_rgb(tmp_path):
    grey = Image.fromarray((np.linspace(0, 1, 64).reshape(8, 8) * 255).astype(np.uint8))
    rgb = Image.merge("RGB", [grey] * 3)
    for name, picture in {"a.png": rgb, "b.tif": rgb.convert("CMYK"), "c.png": grey.convert("P")}.items():
        picture.save(tmp_path / name)
    folder = images(tmp_path, size=8, resize=8, mean=[0.0] * 3, std=[1.0] * 3)
    assert all((folder[number] - folder[0]).abs().max() < 0.02 for number in range(3))


def test_options_of_images_are_checked(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for options in (
        {"channels": 2},
        {"mean": [0.5]},
        {"std": [0.0, 1.0, 1.0]},
        {"size": 0},
        {"size": 8, "resize": 4},
        {"limit": 0},
        {"workers": -1},
    ):
        with pytest.raises(DataError):
            images(tmp_path, **options)
    with pytest.raises(DataError, match="no folder"):
        images(tmp_path / "missing")
    with pytest.raises(DataError, match="not a folder"):
        images(tmp_path / "a.png")


def test_pipes_and_strips_are_no_pictures(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (800, 8)).save(tmp_path / "b.png")
    Image.new("RGB", (3000, 1)).save(tmp_path / "c.png")
    expected = {2: "its sides are 3000 and 1 pixels"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "d.png")
        expected[3] = "not an ordinary file"
    folder = images(tmp_path, size=8)
    found = folder.unreadable()
    assert list(found) == list(expected) and folder[1].shape == (3, 8, 8)
    for number, words in expected.items():
        assert words in found[number]
        with pytest.raises(DataError, match=words):
            folder[number]
