"""Small models and data that all tests share."""

from __future__ import annotations

import gc
import os

import pytest
import torch
from torch import Tensor, nn

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker: threads of torch that outnumber the cores spin
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What is there before the first test (modules, above all) is not looked through whenever garbage is collected."""
    gc.collect()
    gc.freeze()


class PaddedConv(nn.Conv2d):
    """A convolution with a forward of its own, as EfficientNet ports have: it pads by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(nn.functional.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class SmallNet(nn.Module):
    """Convolutions, a depthwise one, a subclass, batch norm, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.padded = PaddedConv(8, 16, 3)
        self.bn2 = nn.BatchNorm2d(16)
        self.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.stem(x)))
        x = torch.relu(self.bn2(self.padded(torch.relu(self.depthwise(x)))))
        return self.head(x.mean((2, 3)))


class TextNet(nn.Module):
    """An embedding tied to the output layer, attention, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.out = nn.Linear(16, 50, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.out(self.norm(self.lstm(x)[0]))


@pytest.fixture
def small_net() -> SmallNet:
    torch.manual_seed(0)
    net = SmallNet()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, 3, 12, 12))
    return net.eval()


@pytest.fixture
def text_net() -> TextNet:
    torch.manual_seed(0)
    return TextNet().eval()


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(96, 3, 12, 12, generator=torch.Generator().manual_seed(1))
