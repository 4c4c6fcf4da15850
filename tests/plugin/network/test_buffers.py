"""Which buffers are weights, and that they are parameters only for a while."""

from __future__ import annotations

from collections.abc import Callable

import lloydmax
import pytest
import torch
from foreign_layers import InBuffers
from lloydmax.network.buffers import weights_in_buffers
from lloydmax.network.parameters import WeightBuffer, demote, owners, promote
from lloydmax.network.private import private
from torch import Tensor, nn


def with_buffer(made: Callable[[], Tensor], **more: bool) -> nn.Module:
    model = nn.Sequential(nn.Linear(20, 20))
    model.register_buffer("held", made(), **more)
    return model


@pytest.mark.parametrize(
    ("made", "meant"),
    [
        (lambda: torch.randn(9, 9), True),
        (lambda: torch.randn(9, 9).half(), True),
        (lambda: torch.randn(9, 9).t(), True),
        (lambda: torch.zeros(9, 9), True),
        (lambda: torch.randn(2, 2), False),
        (lambda: torch.randn(81), False),
        (lambda: torch.randn(9, 9).double(), False),
        (lambda: torch.ones(9, 9, dtype=torch.int8), False),
        (lambda: torch.tril(torch.ones(9, 9)), False),
        (lambda: torch.full((9, 9), torch.inf).tril(), False),
        (lambda: torch.randn(9, 9).to_sparse(), False),
    ],
)
def test_large_matrices_of_floats_are_weights(made: Callable[[], Tensor], meant: bool) -> None:
    assert weights_in_buffers(with_buffer(made)) == (["held"] if meant else [])


def test_what_no_file_keeps_what_is_a_parameter_and_statistics_are_none() -> None:
    assert not weights_in_buffers(with_buffer(lambda: torch.randn(9, 9), persistent=False))
    model = nn.Sequential(nn.Linear(9, 9))
    model.register_buffer("held", model[0].weight)
    assert not weights_in_buffers(model)
    norm = nn.LayerNorm(9)
    norm.register_buffer("seen", torch.randn(9, 9))
    assert not weights_in_buffers(nn.Sequential(norm))


def test_every_name_of_a_tied_one_is_told() -> None:
    assert weights_in_buffers(InBuffers()) == ["out", "inner.w", "inner.again"]


def test_they_are_parameters_in_a_private_tree_and_buffers_again_when_it_is_finished() -> None:
    model = InBuffers()
    tree = private(model)
    assert isinstance(tree.inner.w, WeightBuffer) and tree.inner.w is tree.inner.again
    assert not isinstance(tree.mask, nn.Parameter) and not isinstance(model.out, nn.Parameter)
    demote(tree)
    assert set(dict(tree.named_buffers(remove_duplicate=False))) == {"inner.w", "inner.again", "mask", "out"}
    assert tree.inner.w is tree.inner.again and not isinstance(tree.inner.w, nn.Parameter)


def test_buffers_in_the_same_memory_as_a_parameter_are_that_parameter() -> None:
    model = nn.Sequential(nn.Linear(300, 300))
    model.register_buffer("same", model[0].weight.data)
    model.register_buffer("other", model[0].weight.data.t())
    tree = private(model)
    assert tree.same is tree[0].weight and tree.other is not tree.same
    assert [name for name, _, _ in owners(tree)[id(tree.same)]] == ["0.weight", "same"]


def test_what_stays_as_it_is_is_a_buffer_in_the_result() -> None:
    model = InBuffers().eval()
    rules = [{"layers": "all", "centroids": 4}, {"layers": "", "quantizer": "none"}]
    result = lloydmax.compress(model, {"quantize": rules}, progress=False)
    assert "out" in dict(result.model.named_buffers()) and torch.equal(result.model.out, model.out)
    assert [name for name, _ in result.model.named_parameters()] == ["conv.bias"]
    assert promote(result.model, ["out"]) and isinstance(result.model.out, WeightBuffer)
