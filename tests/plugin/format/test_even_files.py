"""Files with evenly spaced codebooks, which are stored as scale and zero point."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forging import forge, net, refused_data
from lloydmax.checkpoint import inspect, load, save
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import spread
from lloydmax.student.attachment import attach, codebooks
from safetensors.torch import load_file
from torch import Tensor, nn

ROWS = torch.tensor([[0.5, 0.0], [0.25, 7.0], [0.125, 15.0], [1.0, 3.0]])


def even_model(rows: Tensor, granularity: str) -> nn.Module:
    done, centroids = net(), spread(rows, 16)
    codes = torch.arange(12, dtype=torch.uint8).view(4, 3)
    attach(done, "0.weight", Codebook(centroids[0] if granularity == "tensor" else centroids, codes, granularity))
    return done


@pytest.mark.parametrize(("rows", "granularity"), [(ROWS, "channel"), (ROWS[:2], "group:2"), (ROWS[1:2], "tensor")])
def test_two_values_stand_for_the_codebook(tmp_path: Path, rows: Tensor, granularity: str) -> None:
    done, path = even_model(rows, granularity), tmp_path / "even.safetensors"
    save(done, path)
    assert torch.equal(load_file(path)["0.weight.codebook"].view(-1, 2), rows)
    fresh = load(path, net())
    assert torch.equal(fresh[0].weight, done[0].weight)
    assert torch.equal(codebooks(fresh)["0.weight"].centroids, codebooks(done)["0.weight"].centroids)
    (found,) = inspect(path).parameters
    assert (found.k, found.granularity, found.block) == (16, granularity, 1)


@pytest.mark.parametrize("zero", [-1.0, 0.5, 16.0])
def test_a_zero_that_is_not_a_level_is_refused(tmp_path: Path, zero: float) -> None:
    path = tmp_path / "even.safetensors"
    save(even_model(ROWS, "channel"), path)

    rows = load_file(path)["0.weight.codebook"].clone()
    rows.view(-1, 2)[2, 1] = zero
    forge(path, tensors={"0.weight.codebook": rows})
    refused_data(path, "'0.weight' has no zero level")
