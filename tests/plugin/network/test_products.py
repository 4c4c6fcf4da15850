"""How modules multiply by weights, told from their source."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from foreign_layers import Conv1D, Experts, OwnLinear
from lloydmax.network.layers import layers_of
from lloydmax.network.products import Along, products
from torch import Tensor, nn


def applied(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A function that a forward method calls."""
    return F.linear(x, weight, bias)


class Uses(nn.Module):
    """Weights without a bias, each used in its own way."""

    def __init__(self) -> None:
        super().__init__()
        names = ("right", "left", "linear", "turned", "both", "table", "called", "own", "chunked", "viewed", "chosen")
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (24, 4))
        shapes |= {"stack": (6, 4, 5), "loop": (6, 4, 5), "heads": (3, 4, 5), "batched": (3, 4, 5)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        self.out = (-1, 8, 4)

    def _own(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.matmul(x, weight.float())

    def forward(self, x: Tensor, choice: Tensor) -> Tensor:
        y = x @ self.right if self.training else self.left.matmul(x)
        weight = self.linear.to(x.dtype)
        y = F.linear(y, weight=weight) + y @ self.turned.t() + self.table[choice]
        y = applied(y, self.called) + self._own(y, self.own)
        first, second = self.chunked.chunk(2)
        y = F.linear(y, first) + F.linear(y, second)
        y = y @ self.both + F.linear(y, self.both)
        for index in choice:
            y = y + F.linear(y, self.stack[index]).chunk(2, dim=-1)[0] + y @ self.viewed.view(self.out)[index]
        for one in self.loop:
            y = y @ one
        y = torch.bmm(y, self.batched) + torch.einsum("btd,hdk->bhtk", y, self.heads)
        return y @ (self.chosen if self.training else self.chosen.data)


def found(module: nn.Module) -> dict[str, Along]:
    return {leaf: along for (_, leaf), along in products(module).items()}


def test_uses_of_weights() -> None:
    assert found(Uses()) == {
        "right": Along(1),
        "left": Along(0),
        "linear": Along(0),
        "turned": Along(0),
        "called": Along(0),
        "own": Along(1),
        "chunked": Along(0),
        "viewed": Along(1, 3),
        "stack": Along(1, 6),
        "loop": Along(2, 6),
        "batched": Along(2, 3),
        "heads": Along(2, 3),
        "chosen": Along(1),
    }


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: Conv1D(4, 4), {"weight": Along(1)}),
        (lambda: OwnLinear(4, 4), {"weight": Along(0)}),
        (Experts, {"up": Along(2, 4), "down": Along(2, 4)}),
    ],
)
def test_foreign_layers(make: Callable[[], nn.Module], wanted: dict[str, Along]) -> None:
    assert found(make()) == wanted


class Held(nn.Module):
    """Multiplies by what it is given, as DBRX does."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3 * 8, 4)), nn.Parameter(torch.randn(3 * 8, 4))

    def forward(self, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return (x.matmul(up.T)).matmul(down)


class Around(nn.Module):
    """Takes the weights of the module in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.size = Held(), 8

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, self.size, 4)
        for expert in range(3):
            x = x + self.inner(x, self.inner.up.view(shape)[expert], self.inner.down.view(shape)[expert])
        return x


def test_weights_that_the_module_around_takes() -> None:
    layer = next(layer for layer in layers_of(nn.Sequential(Around())) if layer.name == "0.inner")
    assert {leaf: layer.outputs(leaf) for leaf in ("up", "down")} == {"up": Along(0, 3), "down": Along(1, 3)}


def test_what_cannot_be_read_is_not_known() -> None:
    space: dict[str, type[nn.Module]] = {}
    exec(  # no source
        "import torch\nclass Made(torch.nn.Module):\n    def forward(self, x):\n        return x @ self.w\n", space
    )
    made = space["Made"]()
    made.w = nn.Parameter(torch.randn(4, 4))
    assert not products(made)
