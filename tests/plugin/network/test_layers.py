"""The layout of weights: along which axis their outputs lie."""

from __future__ import annotations

import pytest
from foreign_layers import Conv1D, Experts, OwnLinear
from lloydmax.network.layers import Layer, layers_of, output_axis
from torch import nn


class Renamed(Conv1D):
    """Known by the class that it is made of."""


class Square(OwnLinear):
    """Inputs and outputs are as many: the bias tells nothing."""

    def __init__(self) -> None:
        super().__init__(8, 8)


@pytest.mark.parametrize(
    ("module", "leaf", "axis"),
    [
        (nn.Linear(3, 5), "weight", 0),
        (nn.Conv2d(3, 5, 3), "weight", 0),
        (nn.ConvTranspose1d(3, 5, 3), "weight", 1),
        (nn.Bilinear(3, 4, 5), "weight", 0),
        (nn.Linear(3, 5), "bias", None),
        (nn.MultiheadAttention(4, 2), "in_proj_weight", 0),
        (nn.MultiheadAttention(4, 2, kdim=6), "k_proj_weight", 0),
        (nn.MultiheadAttention(4, 2), "in_proj_bias", None),
        (Conv1D(3, 5), "weight", 1),
        (Conv1D(4, 4), "weight", 1),
        (Renamed(4, 4), "weight", 1),
        (OwnLinear(3, 5), "weight", 0),
        (Square(), "weight", None),
        (nn.Embedding(5, 3), "weight", 0),
        (nn.LSTM(3, 5), "weight_ih_l0", None),
        (nn.PReLU(5), "weight", None),
        (Experts(), "up", None),
        (nn.LazyLinear(5), "weight", 0),
    ],
)
def test_output_axis(module: nn.Module, leaf: str, axis: int | None) -> None:
    assert output_axis(module, leaf) == axis


def test_to_look_at_a_layer_does_not_run_its_parametrizations() -> None:
    model = nn.utils.parametrizations.spectral_norm(nn.Embedding(6, 4)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert output_axis(model, "weight") == 0 and layers_of(model)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_a_norm_of_two_axes_has_no_outputs() -> None:
    norm = nn.LayerNorm((4, 5))
    norm.bias = nn.Parameter(norm.bias[:, 0].detach())
    layer = Layer("norm", norm, ("LayerNorm",))
    assert layer.outputs("weight") is None and not layer.projects


def test_modules_with_nothing_but_buffers_of_floats_are_layers() -> None:
    held, fleeting, counts = nn.Module(), nn.Module(), nn.Module()
    held.register_buffer("w", nn.Linear(3, 4).weight.detach())
    fleeting.register_buffer("w", nn.Linear(3, 4).weight.detach(), persistent=False)
    counts.register_buffer("n", nn.Linear(3, 4).weight.detach().long())
    assert [layer.name for layer in layers_of(nn.ModuleList([held, fleeting, counts]))] == ["0"]
