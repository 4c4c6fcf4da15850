"""Tracing that no other thread notices, against torch's own."""

from __future__ import annotations

import math
from importlib import import_module
from math import sqrt
from typing import Any

import pytest
import torch
import torchvision
from lloydmax.network.tracing import traced
from torch import Tensor, fx, nn


def scaled(x: Tensor) -> Tensor:
    return x / math.sqrt(x.shape[-1])


def rows(x: Tensor) -> int:
    return len(x)


fx.wrap("rows")


class Attention(nn.Module):
    """Functions of ``math`` by name, by module and by a helper; a decorated forward; a function kept as a leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.gain = nn.Parameter(torch.ones(8))
        self.register_buffer("shift", torch.zeros(8))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.queries(x).chunk(3, -1)
        return self.mixed(scaled(q) @ k.transpose(-1, -2) / sqrt(k.size(-1)), v)

    def mixed(self, scores: Tensor, v: Tensor) -> Tensor:
        weights = (scores * math.floor(v.shape[0] / 2)).softmax(-1)
        return self.out(weights @ v / rows(v)) * (self.gain * 2) + self.shift


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.again = Attention(), nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
        return {"out": self.again(self.again(self.attention(x))) * scale}


def _code(graph: fx.Graph) -> str:
    return "\n".join(str(node.format_node()) for node in graph.nodes)


class Watching(Block):
    """Looks, while it is traced, at what all threads see."""

    def forward(self, x: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
        self.seen = (nn.Module.__call__, nn.Module.__getattr__, import_module("math").sqrt, globals()["rows"])
        return super().forward(x, scale)


@pytest.mark.parametrize(
    "make",
    [Block, torchvision.models.resnet18, torchvision.models.swin_t, torchvision.models.mobilenet_v3_small],
)
def test_the_graph_is_that_of_torch(make: Any) -> None:
    model = make().eval()
    kinds = [type(module) for module in model.modules()]
    graph = traced(fx.Tracer(), model)
    assert [type(module) for module in model.modules()] == kinds
    stacks = [node.meta["nn_module_stack"] for node in graph.nodes if "nn_module_stack" in node.meta]
    assert {kind for stack in stacks for _, kind in stack.values()} <= set(kinds)
    assert _code(graph) == _code(fx.Tracer().trace(model))


def test_the_traced_graph_computes_what_the_model_does() -> None:
    model, x = Block().eval(), torch.randn(3, 5, 8)
    found = fx.GraphModule(model, traced(fx.Tracer(), model, {"scale": 3.0}))(x, 3.0)
    assert torch.equal(found["out"], model(x, 3.0)["out"])


def test_nothing_that_other_threads_see_is_replaced() -> None:
    model = Watching()
    before = (nn.Module.__call__, nn.Module.__getattr__, math.sqrt, rows)
    traced(fx.Tracer(), model)
    assert model.seen == before


def test_a_trace_that_fails_leaves_the_classes_as_they_were() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    model = nn.Sequential(nn.Linear(2, 2), Branching())
    with pytest.raises(fx.proxy.TraceError):
        traced(fx.Tracer(), model)
    assert [type(module) for module in model.modules()] == [nn.Sequential, nn.Linear, Branching]
