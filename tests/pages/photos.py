"""The files that a person has before the commands of a page: weights, and a folder of photos."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from lloydmax import demo
from torch import nn
from torchvision.transforms.functional import to_pil_image


def write_files(folder: Path) -> None:
    """``resnet18.pth`` with random weights, and a folder of ``photos``."""
    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    (folder / "photos" / "deep").mkdir(parents=True)
    grey = demo.test_set()[0][:2]
    pictures = nn.functional.interpolate(grey.expand(-1, 3, -1, -1), size=(64, 64), mode="bilinear")
    for number, picture in enumerate(pictures):
        to_pil_image(picture.clamp(0, 1)).save(folder / "photos" / "deep" / f"{number}.png")
