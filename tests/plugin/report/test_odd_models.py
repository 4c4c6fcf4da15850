"""Every number of a report is what the file holds, of models that are not a row of plain layers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.format.inspection import Inspection
from lloydmax.report.figures import Figures
from torch import Tensor, nn

TOKENS, WIDTH = 40, 24
IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(1))
NUMBERS = torch.randint(0, TOKENS, (48, 6), generator=torch.Generator().manual_seed(2))
VECTORS = torch.randn(48, WIDTH, generator=torch.Generator().manual_seed(3))


class Tied(nn.Module):
    """The table of tokens is the head's weight, too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.middle = nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.middle(self.table(tokens)).relu()).mean(1)


class Shared(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.again, self.last = self.first, nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.first(x).relu()).relu())


class Buffered(nn.Module):
    """A frozen backbone keeps its weight as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frozen", torch.randn(32, WIDTH) / 5)
        self.last = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.linear(x, self.frozen).relu())


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4), nn.BatchNorm2d(16),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def halves() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 48), nn.ReLU(), nn.Linear(48, 5)).to(torch.bfloat16)


@dataclass(frozen=True)
class Odd:
    """A kind of model, and how it is compressed.

    Attributes:
        make: gives it; the same layers each time.
        data: that it takes.
        rule: of the recipe, for all layers.
        more: of the recipe.
    """

    make: Callable[[], nn.Module]
    data: Tensor
    rule: dict[str, Any]
    more: dict[str, Any]


SMALL = {"storage": {"codes": "arithmetic", "floats": "fixed", "layout": "tight"}}
TWELVE = {"layers": "all", "centroids": 12}
ODD = {
    "tied": Odd(Tied, NUMBERS, TWELVE, {}),
    "tied, small file": Odd(Tied, NUMBERS, TWELVE, SMALL),
    "shared": Odd(Shared, VECTORS, TWELVE, {"storage": {"codes": "entropy"}}),
    "shared, small file": Odd(Shared, VECTORS, TWELVE, SMALL),
    "buffers": Odd(Buffered, VECTORS, TWELVE, SMALL),
    "int8": Odd(convolutions, IMAGES, {"layers": "all", "centroids": 16}, {"activations": {"bits": 8}}),
    "int8 grid": Odd(
        convolutions, IMAGES, {"layers": "all", "quantizer": "uniform", "bits": 8}, {"activations": {"bits": 8}}
    ),
    "half": Odd(halves, VECTORS.to(torch.bfloat16), TWELVE, {}),
    "half, small file": Odd(halves, VECTORS.to(torch.bfloat16), TWELVE, SMALL),
    "groups": Odd(convolutions, IMAGES, {"layers": "all", "centroids": 6, "granularity": "group:2"}, SMALL),
    "channels": Odd(convolutions, IMAGES, {"layers": "all", "centroids": 3, "granularity": "channel"}, {}),
    "merged norms": Odd(convolutions, IMAGES, TWELVE, {"storage": SMALL["storage"] | {"norms": "merged"}}),
    "blocks": Odd(Shared, VECTORS, {"layers": "all", "centroids": 16, "block": 4}, SMALL),
}


def _sizes(report: Figures, found: Inspection, net: nn.Module, file: Path) -> None:
    """Sums over the whole file, and how they are said."""
    size, kept = file.stat().st_size, {id(p): p for p in (*net.parameters(), *net.buffers())}.values()
    assert report.bytes.file == found.bytes == size
    assert report.bytes.original == sum(value.nbytes for value in kept)
    assert report.others == found.overhead + sum(tensor.bytes for tensor in found.tensors) >= 0
    assert report.bits == 8 * size / (report.weights or 0) and report.reduction == 1 - size / report.bytes.original
    parameters = dict(net.named_parameters())
    buffers = sum(math.prod(layer.shape) for layer in report.layers if layer.name not in parameters)
    assert report.weights == sum(p.numel() for p in parameters.values()) + buffers
    data, text = json.loads(json.dumps(report.to_dict())), str(report)
    assert data["bytes"]["file"] == size and data["bits"] == report.bits and data["others"] == report.others
    assert f"{size:,}" in text and f"{report.bits:.2f} bits of file for each of {report.weights:,} weights" in text
    assert all(re.search(rf"{re.escape(layer.name)} .*{layer.bytes:,} ", text) for layer in report.layers)


@pytest.mark.parametrize("kind", ODD)
def test_numbers_of_odd_models(kind: str, tmp_path: Path) -> None:
    odd = ODD[kind]
    torch.manual_seed(0)
    net = odd.make().eval()
    result = lloydmax.compress(net, {"quantize": [odd.rule], **odd.more}, odd.data, progress=False)
    report, file = result.report, tmp_path / "net.safetensors"
    result.save(file)
    loaded, found = lloydmax.load(file, odd.make()), lloydmax.inspect(file)
    _sizes(report, found, net, file)
    held = lloydmax.codebooks(loaded)
    listed = {stored.name: stored for stored in found.parameters}
    assert sorted(layer.name for layer in report.layers) == sorted(listed)
    for layer in report.layers:
        stored = listed[layer.name]
        weight = net.state_dict()[stored.name].float()
        dense = held[stored.name].dequantize().float()
        assert (layer.bytes, layer.centroids, layer.block) == (stored.bytes, stored.k, stored.block)
        noise = float((dense - weight).double().square().sum())
        assert layer.snr == pytest.approx(10 * math.log10(float(weight.double().square().sum()) / noise), abs=0.01)
        assert sum(layer.weights.counts) == weight.numel() and layer.shape == tuple(weight.shape)
    with torch.no_grad():
        same = (loaded(odd.data).float().argmax(-1) == net(odd.data).float().argmax(-1)).double().mean()
    assert report.agreement.after == pytest.approx(float(same), abs=1e-9)
