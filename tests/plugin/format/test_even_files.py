"""Files with evenly spaced codebooks, which are stored as scale and zero point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forging import change, forge, net, refused, refused_data
from lloydmax.checkpoint import inspect, load, save
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import spread
from lloydmax.student.attachment import attach, codebooks
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHT = ("parameters", "0.weight")
ROWS = torch.tensor([[0.5, 0.0], [0.25, 7.0], [0.125, 15.0], [1.0, 3.0]])
RUNS = torch.cat([ROWS, ROWS.flip(0)])


def even_model(rows: Tensor, granularity: str) -> nn.Module:
    done, centroids = net(), spread(rows, 16)
    codes = torch.arange(12, dtype=torch.uint8).view(4, 3)
    attach(done, "0.weight", Codebook(centroids[0] if granularity == "tensor" else centroids, codes, granularity))
    return done


@pytest.mark.parametrize(
    ("rows", "granularity"), [(ROWS, "channel"), (ROWS[:2], "group:2"), (ROWS[1:2], "tensor"), (RUNS, "weights:2")]
)
def test_two_values_stand_for_the_codebook(tmp_path: Path, rows: Tensor, granularity: str) -> None:
    done, path = even_model(rows, granularity), tmp_path / "even.safetensors"
    save(done, path)
    assert torch.equal(load_file(path)["0.weight.codebook"].float().view(-1, 2), rows)
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


@pytest.mark.parametrize(
    "lie",
    [
        *(
            change(*WEIGHT, "granularity", to=f"weights:{text}")
            for text in ("0", "02", "1", "3", "-2", " 2", "9" * 50, "")
        ),
        change(*WEIGHT, "granularity", to="channel"),
        change(*WEIGHT, "granularity", to="group:1"),
        change(*WEIGHT, "even", to=False),
        change(*WEIGHT, "int8", to=True),
        change(*WEIGHT, "block", to=3),
        change(*WEIGHT, "axis", to=1),
        change(*WEIGHT, "shape", to=[2, 6]),
        change("format", to=1),
    ],
)
def test_lies_about_runs_are_refused(tmp_path: Path, lie: Any) -> None:
    path = tmp_path / "even.safetensors"
    save(even_model(RUNS, "weights:2"), path)
    forge(path, lie)
    refused(path)


def test_grids_of_runs_are_float16_where_no_bit_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "even.safetensors"
    fine = RUNS * torch.tensor([1 / 3, 1.0])
    for rows, dtype in ((RUNS, torch.float16), (fine, torch.float32)):
        done = even_model(rows, "weights:2")
        assert save(done, path) == path.stat().st_size
        assert load_file(path)["0.weight.codebook"].dtype == dtype
        assert torch.equal(load(path, net())[0].weight, done[0].weight)
    save(even_model(ROWS, "channel"), path)
    forge(path, tensors={"0.weight.codebook": ROWS.half()})
    refused(path, "the codebook of '0.weight' is F16")


def test_scales_of_runs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "even.safetensors"
    save(even_model(RUNS, "weights:2"), path)
    rows = load_file(path)["0.weight.codebook"].clone()
    rows.view(-1, 2)[3, 0] = torch.inf
    forge(path, tensors={"0.weight.codebook": rows})
    refused_data(path, "'0.weight'")
