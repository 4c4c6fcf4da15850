"""What a private tree would write is copied first; what it must not reach is refused."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any

import lloydmax
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

RECIPE = {
    "quantize": [{"layers": "all", "centroids": 8}],
    "trainable": ["all"],
    "recover": [{"step": "distill", "steps": 2}],
}
X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


class Writing(nn.Module):
    """Writes into a large buffer, a plain attribute and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(16, 64), nn.Linear(64, 8)
        self.register_buffer("cache", torch.zeros(512, 64))
        self.count = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.plain = torch.zeros(64)

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        self.cache[: len(x)] = found.detach()
        self.plain += 1
        self.count.data += 1
        return self.out(self.cache[: len(x)] + found * 0)


@pytest.mark.parametrize("use", ["compress", "plan", "distill", "data_fitness", "recipe_for"])
def test_what_a_forward_writes_is_not_the_callers(use: str) -> None:
    net = Writing().eval()
    call: dict[str, Callable[[], Any]] = {
        "compress": lambda: lloydmax.compress(net, RECIPE, X, progress=False),
        "plan": lambda: lloydmax.plan(net, RECIPE, X[:2]),
        "distill": lambda: lloydmax.distill(Writing().eval(), net, X, steps=2),
        "data_fitness": lambda: lloydmax.data_fitness(net, {"data": X}),
        "recipe_for": lambda: lloydmax.recipe_for(net, 6, X, effort=0.01),
    }
    call[use]()
    assert not net.cache.any() and not net.plain.any() and not net.count.any()


def test_a_score_of_the_original_writes_nothing_of_the_callers_either() -> None:
    net = Writing().eval()
    score = lambda model: float(model(X).mean())  # noqa: E731
    lloydmax.compress(net, {"quantize": [{"layers": "all", "centroids": 8}]}, evaluate=score, progress=False)
    assert not net.cache.any() and not net.plain.any() and not net.count.any()


def test_an_embedding_that_bounds_its_rows_is_not_the_callers() -> None:
    net = nn.Sequential(nn.Embedding(100, 16, max_norm=1.0), nn.Linear(16, 8)).eval()
    before = net[0].weight.clone()
    recipe = {"quantize": [{"layers": "1", "centroids": 8}]}
    lloydmax.compress(net, recipe, torch.randint(0, 100, (64, 6)), progress=False)
    assert torch.equal(net[0].weight, before) and bool((before.norm(dim=1) > 1.01).any())


def _lambda() -> nn.Module:
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    first, last = net[0], net[2]
    net.forward = lambda x: last(first(x).relu())  # type: ignore[method-assign]
    return net


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)
        self.functions = [lambda x: self.layer(x)]

    def forward(self, x: Tensor) -> Tensor:
        return self.functions[0](x)


class Child(nn.Module):
    def __init__(self, parent: nn.Module) -> None:
        super().__init__()
        self.parent = weakref.ref(parent)

    def forward(self, x: Tensor) -> Tensor:
        return self.parent().layer(x)


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)
        self.child = Child(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x)


@pytest.mark.parametrize("make", [_lambda, Listed, Parent])
def test_a_forward_that_copies_share_is_refused_by_name(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(lloydmax.ModelError, match=r"reaches (0|layer)\.weight by something that copies"):
        lloydmax.compress(make(), RECIPE, X, progress=False)


def test_a_forward_that_was_set_on_a_layer_stays() -> None:
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    net[0].forward = types.MethodType(lambda self, x: F.linear(x, self.weight, self.bias) * 3, net[0])  # type: ignore[method-assign]
    found = lloydmax.compress(net, {"quantize": [{"layers": "all", "centroids": 256}]}, X, progress=False).model
    assert torch.allclose(found(X), net(X), atol=0.02)


def test_int8_refuses_layers_that_do_something_else_than_their_class_says() -> None:
    recipe = {"quantize": [{"layers": "all", "quantizer": "uniform"}], "activations": {"bits": 8}}
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    net[2].register_forward_hook(lambda module, given, found: found * 3)
    with pytest.raises(lloydmax.IntegrationError, match="2 has hooks"):
        lloydmax.compress(net, recipe, X, progress=False)


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)
        self.register_buffer("coo", torch.eye(16).to_sparse(), persistent=False)
        self.register_buffer("csr", torch.eye(16).to_sparse_csr(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((self.coo @ x.T).T + (self.csr @ x.T).T)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_buffers_are_copied() -> None:
    recipe = RECIPE | {"recover": [{"step": "distill", "steps": 2, "precision": "float32"}]}
    assert lloydmax.codebooks(lloydmax.compress(Graph().eval(), recipe, X, progress=False).model)


class Itself(nn.Linear):
    def __deepcopy__(self, memo: object) -> Itself:
        return self


class Marked(Tensor):
    """A kind of tensor of its own."""


def _marked() -> nn.Module:
    net = nn.Sequential(nn.Linear(16, 8))
    net[0].weight = nn.Parameter(net[0].weight.detach().as_subclass(Marked))
    return net


@pytest.mark.parametrize(
    ("make", "named"),
    [(lambda: nn.Sequential(Itself(16, 8)), "^0 is shared by copies"), (_marked, r"^0\.weight is a Marked")],
)
def test_what_cannot_be_private_is_refused(make: Callable[[], nn.Module], named: str) -> None:
    with pytest.raises(lloydmax.ModelError, match=named):
        lloydmax.compress(make(), RECIPE, X, progress=False)
