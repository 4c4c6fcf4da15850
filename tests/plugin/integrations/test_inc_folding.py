"""Batch norms folded for Intel Neural Compressor's static quantization."""

from __future__ import annotations

import copy
from typing import Any

import lloydmax
import pytest
import torch
from conftest import PaddedConv
from lloydmax.integrations.inc import CodebookConfig, except_codebooks, fold_batch_norms
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import StaticQuantConfig, convert, prepare, quantize
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

pytest.importorskip("neural_compressor")


class Scaled(nn.Module):
    """A residual block with a parameter of its own beside its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5]))
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.norm(self.conv(x))


class Named(Scaled):
    """Passes tensors on by name."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=self.conv(input=x))


class Tied(nn.Module):
    """Two convolutions with one weight, each with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.other.weight = self.one.weight
        self.norm, self.last = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.other(self.norm(self.one(x)).relu()))


class Twice(nn.Module):
    """One convolution and one batch norm, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.norm(self.conv(x))))


class Acting(nn.BatchNorm2d):
    """Does more than to normalize."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Standardized(nn.Conv2d):
    """Not linear in its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.std((1, 2, 3), keepdim=True), self.bias)


class Branching(nn.Module):
    """Cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def normed(layer: Any, channels: int = 4, **options: Any) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels, **options))


MODELS = {
    "convolution": (lambda: normed(nn.Conv2d(3, 4, 3, bias=False)), 0),
    "transposed": (lambda: normed(nn.ConvTranspose2d(3, 4, 3)), 0),
    "transposed, groups": (lambda: normed(nn.ConvTranspose2d(3, 6, 3, groups=3), 6), 0),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 4), nn.BatchNorm1d(4)), 0),
    "not affine": (lambda: normed(nn.Conv2d(3, 4, 3), affine=False), 0),
    "own forward": (lambda: normed(PaddedConv(3, 4, 3)), 0),
    "untraceable part": (lambda: nn.Sequential(*normed(nn.Conv2d(3, 4, 3)), Branching()), 0),
    "block with a parameter": (lambda: nn.Sequential(Scaled(), nn.ReLU()), 0),
    "by name": (Named, 0),
    "tied": (Tied, 0),
    "called twice": (Twice, 1),
    "no statistics": (lambda: normed(nn.Conv2d(3, 4, 3), track_running_stats=False), 1),
    "norm that acts": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Acting(4)), 1),
    "standardized": (lambda: normed(Standardized(3, 4, 3)), 1),
    "parametrized": (lambda: normed(weight_norm(nn.Conv2d(3, 4, 3))), 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_stay_and_norms_go(name: str) -> None:
    torch.manual_seed(0)
    make, left = MODELS[name]
    model, x = make(), torch.randn(8, 3, 5, 5)
    for _ in range(3):
        model(x)
    state = copy.deepcopy(model.state_dict())
    folded = fold_batch_norms(model)
    assert sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules()) == left
    assert all(type(module) is nn.Identity for module in folded.modules() if isinstance(module, nn.Identity))
    assert model.training and not any(module.training for module in folded.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-4, atol=1e-5)


def test_a_forward_that_cannot_be_traced() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) if x.sum() > 0 else x

    with pytest.raises(lloydmax.IntegrationError, match=r"Decides.forward cannot be traced \(symbolically traced"):
        fold_batch_norms(Decides())


@pytest.mark.parametrize("name", ["block with a parameter", "tied", "transposed, groups", "linear"])
def test_static_quantization_takes_what_is_folded(name: str) -> None:
    torch.manual_seed(0)
    model, x = MODELS[name][0](), torch.randn(8, 3, 5, 5)
    for _ in range(3):
        model(x)
    found = quantize(fold_batch_norms(model), CodebookConfig(centroids=16))
    wanted = found(x)
    prepared = prepare(export(found, (x,)), except_codebooks(StaticQuantConfig(), found))
    prepared(x)
    torch.testing.assert_close(convert(prepared)(x), wanted, rtol=0.05, atol=0.05)
