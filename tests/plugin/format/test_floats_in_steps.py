"""Floats in steps: rounding is idempotent and within its bound, and nothing is lost in a file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lloydmax import Codebook
from lloydmax.checkpoint import round_floats
from lloydmax.codebook.layout import code_dtype
from lloydmax.errors import CheckpointError
from lloydmax.format import steps
from lloydmax.format.steps import Steps
from lloydmax.format.tensor_table import Entry
from lloydmax.student.attachment import attach
from torch import nn

CHANCE = torch.Generator().manual_seed(0)


def cases():
    normal = torch.randn(64, generator=CHANCE)
    yield normal, 0
    yield 1 + normal / 10, 0
    yield normal.exp() * 1e-20, 0
    yield torch.cat([normal, torch.tensor([1000.0])]), 0
    yield torch.where(normal > 1, normal, 0.0), 0
    yield normal.view(8, 8).sort(1).values, 8
    yield (normal.view(2, 32).sort(1).values * torch.tensor([[1.0], [20.0]])), 32


@pytest.mark.parametrize(("tensor", "columns"), cases())
def test_rounding_twice_is_rounding_once_and_close(tensor, columns):
    rounded = steps.rounded(tensor, columns)
    assert torch.equal(steps.rounded(rounded, columns), rounded)
    most = float(tensor.abs().sqrt().mean()) ** 2 / 128
    if columns:
        spans = (tensor.amax(1) - tensor.amin(1)) / (columns - 1)
        most = float(torch.minimum(spans / 32, tensor.square().mean(1).sqrt() / 2048).amin())
    assert 0 < float((rounded - tensor).abs().max()) <= most
    assert torch.equal(Steps.of(rounded).tensor(torch.float32), rounded.reshape(-1))


@pytest.mark.parametrize(("bits", "fine"), [(1, 5), (3, 7), (4, 8), (5, 9), (8, 12)])
def test_floats_are_finer_where_centroids_are_closer(bits, fine):
    torch.manual_seed(0)
    model = nn.Linear(64, 256)
    codes = (torch.arange(model.weight.numel()) % (1 << bits)).view(model.weight.shape)
    attach(
        model,
        "weight",
        Codebook(torch.arange(float(1 << bits)) - ((1 << bits) - 1) / 2, codes.to(code_dtype(1 << bits))),
    )
    before = model.bias.detach().clone()
    round_floats(model, {"floats": "fixed", "codes": "arithmetic", "layout": "tight"})
    step = float(before.abs().sqrt().mean()) ** 2 * 2.0**-fine
    assert (model.bias - before).abs().max() <= step / 2
    assert Steps.of(model.bias.detach()).exponent == math.floor(math.log2(step))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(7),
        torch.zeros(9),
        torch.full((9,), torch.nan),
        torch.tensor([torch.inf, *[1.0] * 9]),
        torch.full((9,), 1e-45),
    ],
)
def test_what_is_not_for_steps_stays(tensor):
    assert steps.rounded(tensor) is None


def test_only_what_loses_no_bit_is_in_steps():
    whole = torch.arange(-4.0, 5)
    assert Steps.of(whole) is not None and Steps.of(whole.half()) is not None
    assert Steps.of(torch.where(whole == 0, -0.0, whole)) is None
    assert Steps.of(whole.double()) is None and Steps.of(whole.long()) is None
    assert Steps.of(torch.cat([whole, torch.tensor([2.0**-20])])) is None
    assert Steps.of(whole * 2.0**-140).exponent == -140


def test_a_stream_of_many_tensors():
    held = {f"t{index}": (tensor, columns) for index, (tensor, columns) in enumerate(cases())}
    rounded = {name: (steps.rounded(*one), one[1]) for name, one in held.items()}
    made = {name: Steps.of(tensor, columns) for name, (tensor, columns) in rounded.items()}
    stream = steps.encode(made.values())
    wanted = [(name, "F32", tensor.numel(), columns) for name, (tensor, columns) in rounded.items()]
    assert len(stream) < 1.5 * sum(count for _, _, count, _ in wanted)
    found = steps.decode(np.frombuffer(stream, np.uint8), wanted)
    assert all(torch.equal(found[name], tensor.reshape(-1)) for name, (tensor, _) in rounded.items())
    for broken in (stream + b"\1" * 9, b"\xff" * len(stream)):
        with pytest.raises(CheckpointError):
            steps.decode(np.frombuffer(broken, np.uint8), wanted)


def test_shares_sum_to_the_stream():
    entries = [Entry(str(size), "F32", (size,)) for size in (9, 100, 17, 64)]
    for total in (0, 1, 99, 1000):
        assert sum(entry.bytes for entry in steps.shared(entries, total)) == total
    assert steps.shared([], 0) == []


def test_steps_of_twice_the_size() -> None:
    values = steps.rounded(torch.randn(64, generator=torch.Generator().manual_seed(0)))
    assert values is not None
    larger = steps.coarser(values)
    assert larger is not None and len(larger.unique()) < len(values.unique())
    ones = steps.coarser(torch.arange(-3.0, 6.0))
    assert ones is not None and Steps.of(ones) is not None, "a negative zero is not stored in steps"
    step = 2.0 ** Steps.of(values).exponent
    assert (larger - values).abs().max() <= step and bool((larger / (2 * step) % 1 == 0).all())
    assert steps.coarser(torch.randn(64, generator=torch.Generator().manual_seed(0)) * torch.pi) is None
