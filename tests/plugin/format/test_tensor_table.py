"""Tensors of one repeated value: only the value is written."""

import pytest
import torch
from lloydmax.checkpoint import accountings, inspect, load, save, verify
from lloydmax.codebook.codebook import Codebook
from lloydmax.format.tensor_table import DTYPES, Entry, constant, filled
from lloydmax.student.codebooks import attach, finish
from torch import nn


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_constant_and_keeps_its_size(dtype, tmp_path):
    model = nn.Sequential(nn.Linear(2, 3))
    model.register_buffer("same", torch.ones(dtype.itemsize * 6, dtype=torch.uint8).view(dtype).view(3, 2))
    model.register_buffer("single", torch.ones(()).to(dtype))
    odd = torch.zeros(dtype.itemsize * 3, dtype=torch.uint8)
    odd[0] = 1
    model.register_buffer("odd", odd.view(dtype))
    attach(model, "0.weight", Codebook(torch.tensor([0.0, 1.0]), torch.ones(3, 2, dtype=torch.uint8)))
    done = finish(model)
    assert (
        save(done, tmp_path / "a", storage={"layout": "compact"})
        == accountings(done, storage={"layout": "compact"}).packed
    )
    verify(tmp_path / "a")
    fresh = nn.Sequential(nn.Linear(2, 3))
    for name in ("same", "single", "odd"):
        fresh.register_buffer(name, torch.zeros_like(getattr(model, name)))
    load(tmp_path / "a", fresh)
    for name in ("same", "single", "odd"):
        first, second = getattr(model, name), getattr(fresh, name)
        assert torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))
    held = {item.name: item.bytes for item in inspect(tmp_path / "a").tensors}
    assert held["same"] == held["single"] == 0 and held["odd"] == 3 * dtype.itemsize


def test_constants():
    assert constant("a", torch.zeros(0)) is None and constant("a", torch.tensor([0.0, -0.0])) is None
    entry = constant("a", torch.full((2, 3), -1.5))
    assert entry == Entry("a", "F32", (2, 3), "0000c0bf") and entry.bytes == 0 and entry.size == 24
    assert torch.equal(filled(entry), torch.full((2, 3), -1.5))
    assert filled(Entry("a", "F32", (10**18,), "0000c0bf")).untyped_storage().nbytes() == 4
