"""Layouts of weights that graphs read."""

from __future__ import annotations

import torch
from lloydmax.network.layers import layers_of
from torch import Tensor, fx, nn


class OnnxMatMul(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.matmul(x, y)


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.randn(6, 7))

    def forward(self) -> Tensor:
        return self.value


class Uses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shapes = {"right": (4, 6), "left": (5, 4), "linear": (6, 6), "turned": (6, 6), "both": (6, 6), "table": (9, 4)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        self.product, self.constant = OnnxMatMul(), Constant()

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear((x @ self.right).relu(), self.linear) @ self.turned.t()
        y = self.product((y @ self.both).relu() @ self.both.t(), self.constant())
        return y.sum() + (self.left @ x.t()).sum() + self.table[:2].sum()


class Whole(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return True


def axes(graph_module: nn.Module) -> dict[str, int | None]:
    found = {leaf: layer.outputs(leaf) for layer in layers_of(graph_module) for leaf in layer.weights()}
    return {leaf: None if one is None else one.axis for leaf, one in found.items()}


def test_axes_of_outputs() -> None:
    model, x = Uses().eval(), torch.randn(3, 4)
    wanted = {"right": 1, "left": 0, "linear": 0, "turned": 0, "both": None, "table": None, "value": 1}
    traced = fx.GraphModule(model, Whole().trace(model))
    assert axes(traced) == wanted
    assert axes(torch.export.export(model, (x,)).module()) == wanted
    assert axes(torch.export.export(model, (x,)).run_decompositions().module()) == wanted
    assert axes(model) == wanted | {"value": None}  # told from the source
