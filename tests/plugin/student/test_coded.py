"""Weights of layers that PyTorch does not have, in int8: Conv1D and stacked experts."""

from __future__ import annotations

import copy
from typing import Any

import lloydmax
import pytest
import torch
import torch.nn.functional as F
from foreign_layers import Conv1D
from lloydmax.student.coded import CodedTensor
from torch import Tensor, nn

RECIPE = {"quantize": [{"layers": "all", "centroids": 16, "granularity": "group:64"}]}


class Experts(nn.Module):
    """Two of them, as rows and as columns."""

    def __init__(self, grouped: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(2, 512, 640)), nn.Parameter(torch.randn(2, 512, 640))
        self.grouped = grouped

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([1, len(x)], dtype=torch.int32)
        if self.grouped:
            return F.grouped_mm(F.grouped_mm(x, self.up.transpose(-2, -1), offs=ends).relu(), self.down, offs=ends)
        first, second = x[:1], x[1:]
        first = F.linear(first, self.up[torch.tensor(0)]).relu() @ self.down[0]
        return torch.cat([first, F.linear(second, self.up[1]).relu() @ self.down[-1]])


def compressed(model: nn.Module) -> nn.Module:
    return lloydmax.compress(model.eval(), RECIPE, progress=False).model


@pytest.fixture(scope="module", params=["Conv1D", "experts", "grouped"])
def made(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model: Any = nn.Sequential(Conv1D(640, 1024)) if request.param == "Conv1D" else Experts(request.param == "grouped")
    return compressed(model), torch.randn(3, 640)


@torch.no_grad()
def test_few_inputs_run_in_int8_and_many_do_not(made: tuple[nn.Module, Tensor]) -> None:
    model, x = copy.deepcopy(made[0]), made[1]
    wanted, many = model(x), x.repeat(40, 1)
    all_of_them = model(many)
    assert lloydmax.set_kernel(model, "int8") is model
    found = model(x)
    assert not torch.equal(found, wanted) and float((found - wanted).norm() / wanted.norm()) < 0.02
    assert torch.equal(copy.deepcopy(model)(x), found)
    assert torch.allclose(model(many)[40:], all_of_them[40:], rtol=0.02, atol=0.02 * float(all_of_them.abs().max()))
    lloydmax.set_cache(model, False)
    assert torch.equal(model(x), found)
    lloydmax.set_kernel(model, None)
    assert torch.equal(model(x), wanted)


def test_gradients_and_programs_see_the_decoded_weight(made: tuple[nn.Module, Tensor]) -> None:
    model, x = copy.deepcopy(made[0]), made[1]
    wanted = model(x.clone().requires_grad_())
    lloydmax.set_kernel(model, "int8")
    found = model(x.clone().requires_grad_())
    assert torch.equal(found, wanted) and found.requires_grad
    if isinstance(model, nn.Sequential):
        program = torch.export.export(model, (x,)).module()
        assert torch.equal(program(x), wanted.detach())


@torch.no_grad()
def test_everything_else_is_done_with_the_decoded_weight() -> None:
    model = compressed(nn.Sequential(Conv1D(640, 1024)))
    plain = model[0].weight
    lloydmax.set_kernel(model, "int8")
    coded = model[0].weight
    assert isinstance(coded, CodedTensor) and coded.shape == plain.shape and coded.dtype == plain.dtype
    assert (
        torch.equal(coded + 0, plain) and torch.equal(coded[3:5], plain[3:5]) and torch.equal(coded.sum(), plain.sum())
    )
    assert torch.equal(torch.cat([coded, coded]), torch.cat([plain, plain])) and torch.equal(coded.data, plain)
    assert torch.equal(coded.t() @ torch.ones(640), plain.t() @ torch.ones(640)) and str(coded) == str(plain)
    assert torch.equal(copy.deepcopy(coded), plain) and coded.T.shape == (1024, 640) and not coded.requires_grad


def test_small_experts_are_not_served() -> None:
    torch.manual_seed(0)
    model = Experts()
    model.up, model.down = nn.Parameter(torch.randn(2, 32, 32)), nn.Parameter(torch.randn(2, 32, 32))
    with pytest.raises(lloydmax.KernelError, match="serves none of the 2 finished linear layers"):
        lloydmax.set_kernel(compressed(model), "int8")
