"""What a reader of the README has before a block: a trained model, inputs, a calibration function, files.

Nothing of lloydmax or of a host is imported for the text here; it has to do so itself.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torchvision
from lloydmax import demo
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_pil_image


def names(network: str) -> dict[str, Any]:
    """The names that fragments of the text may use, made anew for every block.

    Args:
        network: ``demo``, trained, for 28 x 28 grey pictures, or ``resnet18`` with random weights, for 64 x 64 colour.
    """
    clothes, labels = demo.test_set()
    model, x, data = demo.network(), clothes[:64], demo.silhouettes()[:64]
    if network == "resnet18":
        x, data = (_colour(pictures[:16]) for pictures in (x, data))
        model = _resnet18(data)
        with torch.no_grad():
            labels = model(x).argmax(1)

    def calibrate(model: nn.Module) -> None:
        with torch.no_grad():
            for batch in data.split(16):
                model(batch)

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return (model(x).argmax(1) == labels[: len(x)]).float().mean().item()

    teacher = copy.deepcopy(model)
    return {
        "model": model,
        "teacher": teacher,
        "MyNet": lambda: copy.deepcopy(teacher),
        "x": x,
        "data": data,
        "loader": DataLoader(data, batch_size=16),
        "calibrate": calibrate,
        "evaluate": evaluate,
    }


def write_files(folder: Path) -> None:
    """``resnet18.pth``, and a folder of ``photos``."""
    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    (folder / "photos" / "deep").mkdir(parents=True)
    for number, picture in enumerate(_colour(demo.test_set()[0][:2])):
        to_pil_image(picture.clamp(0, 1)).save(folder / "photos" / "deep" / f"{number}.png")


def _colour(pictures: Tensor) -> Tensor:
    return nn.functional.interpolate(pictures.expand(-1, 3, -1, -1), size=(64, 64), mode="bilinear")


def _resnet18(pictures: Tensor) -> nn.Module:
    """Random weights, and batch-norm statistics of real pictures."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    with torch.no_grad():
        for _ in range(4):
            model.train()(pictures)
    return model.eval()
