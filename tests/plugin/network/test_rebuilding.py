"""Layers of exported programs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from lloydmax.network.private import private
from lloydmax.network.rebuilding import rebuild
from torch import Tensor, nn


def exported(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.export.export(model.eval(), (x,)).module()


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (lambda: nn.Linear(4, 5, bias=False), (2, 4)),
        (lambda: nn.Conv1d(4, 6, 3, padding="same"), (2, 4, 8)),
        (lambda: nn.Conv2d(4, 6, 3, stride=(2, 1), padding=1, dilation=2, groups=2), (2, 4, 8, 8)),
        (lambda: nn.Conv3d(4, 6, 1), (2, 4, 3, 3, 3)),
        (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2, dilation=2), (2, 4, 5, 5)),
        (lambda: nn.BatchNorm2d(4), (2, 4, 5, 5)),
        (lambda: nn.BatchNorm1d(4), (3, 4)),
        (lambda: nn.LayerNorm((4, 5), eps=1e-3), (2, 4, 5)),
        (lambda: nn.GroupNorm(2, 4), (2, 4, 5)),
    ],
)
def test_layers_are_what_they_were(made: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = made(), torch.randn(shape)
    program = exported(nn.Sequential(layer, nn.Tanh()), x)
    before, state = program(x), dict(program.state_dict())
    rebuild(program)
    again = program.get_submodule("0")
    assert type(again) is type(layer) and again.extra_repr() == layer.extra_repr()
    assert torch.equal(program(x), before) and torch.equal(copy.deepcopy(program)(x), before)
    assert list(program.state_dict()) == list(state) and not program.eval().training


def test_embeddings_and_shared_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer, self.odd = nn.Embedding(9, 4, padding_idx=1), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(self.table(x))) @ self.odd.weight + self.odd.bias

    x = torch.arange(6).view(2, 3)
    program = exported(Twice(), x)
    tree = private(program)
    kinds = {name: type(module) for name, module in tree.named_children()}
    assert kinds["table"] is nn.Embedding and kinds["layer"] is nn.Linear and kinds["odd"] is nn.Module
    assert tree.table.padding_idx == 1 and torch.equal(tree(x), program(x))
    assert type(program.layer) is nn.Module


def test_statistics_of_the_batch_are_no_layer() -> None:
    x = torch.randn(4, 3, 5, 5)
    program = torch.export.export(nn.Sequential(nn.BatchNorm2d(3)), (x,)).module()
    rebuild(program)
    assert type(program.get_submodule("0")) is nn.Module
