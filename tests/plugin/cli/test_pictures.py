"""How the command reads pictures: its options, and what the weights of a model say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from lloydmax.cli.pictures import Pictures
from lloydmax_command import main
from PIL import Image
from torch import nn
from torchvision.models import ResNet50_Weights


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (80 * number, 20, 200)).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("more", "weights"),
    [
        ({}, "IMAGENET1K_V1"),
        ({"model_args": '{"weights": "DEFAULT"}'}, "IMAGENET1K_V2"),
        ({"model_args": '{"weights": "ResNet50_Weights.IMAGENET1K_V2"}'}, "IMAGENET1K_V2"),
        ({"weights": f"x/{Path(ResNet50_Weights.IMAGENET1K_V2.url).name}"}, "IMAGENET1K_V2"),
        ({"model": "torchvision.models:get_model", "model_args": '{"name": "resnet50"}'}, "IMAGENET1K_V1"),
    ],
)
def test_weights_of_torchvision_say_it(photos: Path, more: dict[str, Any], weights: str) -> None:
    found = Pictures(**{"model": "torchvision.models:resnet50", "tell": False, **more}).read(photos, net())
    theirs = ResNet50_Weights[weights].transforms()
    with Image.open(photos / "1.png") as picture:
        torch.testing.assert_close(found[1], theirs(picture))
    assert weights in found.describe()


def test_options_come_before_it_and_all_of_it_is_told(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = Pictures(size="16x24", crop="none", mean="0,0,0", std="1,1,1", interpolation="nearest", model="m:f")
    assert how.read(photos, net())[1].shape == (3, 16, 24)
    assert "3 images" in (told := capsys.readouterr().err) and "16x24 (no crop, nearest), mean 0, 0, 0" in told
    assert Pictures().side == 224 and Pictures(size="64").side == 64


@pytest.mark.parametrize("size", ["x", "0", "12x", "1x2x3", "-5"])
def test_sizes_are_checked(photos: Path, size: str) -> None:
    with pytest.raises(click.UsageError, match="--size is pixels"):
        Pictures(size=size).read(photos, net())


@pytest.mark.parametrize("share", ["much", "200%", "-1"])
def test_shares_are_checked(photos: Path, share: str) -> None:
    with pytest.raises(click.UsageError, match="--skip-bad is a share"):
        Pictures(skip_bad=share).read(photos, net())


def test_bytes_that_a_model_does_not_take_are_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 12, 14, 3), np.uint8))
    np.save(tmp_path / "floats.npy", np.zeros((4, 3, 12, 14), np.float32))

    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.permute(0, 3, 1, 2).float() / 255)

    assert Pictures().are_in(tmp_path / "x.npy", net()) and not Pictures().are_in(tmp_path / "x.npy", Bytes())
    assert not Pictures().are_in(tmp_path / "floats.npy", net()) and not Pictures().are_in(tmp_path, net())


def test_limits_that_are_no_time_or_size(photos: Path, tmp_path: Path) -> None:
    asked = ["compress", "--model", "conftest:SmallNet", "--bits", "4", "--out", str(tmp_path / "x.safetensors")]
    for option, value in (("--max-time", "soon"), ("--max-memory", "much")):
        found = CliRunner().invoke(main, [*asked, option, value])
        assert found.exit_code == 2 and value in found.output and len(found.output.splitlines()) < 8, found.output
