"""Files of vector codebooks: lies are refused."""

from __future__ import annotations

from pathlib import Path

import lloydmax
import pytest
import torch
from lloydmax.codebook.codebook import Codebook
from lloydmax.student.attachment import attach, finish
from test_lies import change, forge
from torch import Tensor, nn


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    codes = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]], dtype=torch.uint8)
    attach(model, "0.weight", Codebook(torch.randn(3, 3), codes, block=3, shape=(4, 6)))
    lloydmax.save(finish(model), tmp_path / "a")
    return tmp_path / "a"


AT = ("parameters", "0.weight")


@pytest.mark.parametrize(
    "lie",
    [
        change(*AT, "block", to=0),
        change(*AT, "block", to=-3),
        change(*AT, "block", to=2),
        change(*AT, "block", to=4),
        change(*AT, "block", to=6),
        change(*AT, "block", to=1),
        change(*AT, "block", to=None),
        change(*AT, "block", to=3.0),
        change(*AT, "block", to=True),
        change(*AT, "block", to="3"),
        change(*AT, "block", to=[3]),
        change(*AT, "block", to=10**30),
        change(*AT, "even", to=True),
        change(*AT, "granularity", to="channel"),
        change(*AT, "shape", to=[4, 9]),
        change(*AT, "shape", to=[8, 6]),
        change(*AT, "shape", to=[]),
        change(*AT, "shape", to=[10**18] * 64),
        change(*AT, "k", to=9),
    ],
)
def test_lies_about_blocks(stored: Path, lie: object) -> None:
    forge(stored, lie)
    fresh = nn.Sequential(nn.Linear(6, 4, bias=False))
    for use in (lloydmax.inspect, lloydmax.verify, lambda path: lloydmax.load(path, fresh)):
        with pytest.raises(lloydmax.CheckpointError):
            use(stored)
    assert type(fresh[0]) is nn.Linear


@pytest.mark.parametrize("codebook", [torch.zeros(9), torch.zeros(3, 2), torch.zeros(1, 3, 3), torch.zeros(2, 3)])
def test_codebooks_of_another_shape(stored: Path, codebook: Tensor) -> None:
    forge(stored, tensors={"0.weight.codebook": codebook})
    with pytest.raises(lloydmax.CheckpointError, match="shape"):
        lloydmax.verify(stored)


def test_codes_of_blocks_are_checked(stored: Path) -> None:
    forge(stored, tensors={"0.weight.codes": torch.full((2,), 255, dtype=torch.uint8)})
    with pytest.raises(lloydmax.CheckpointError, match="code 3 in a codebook of 3"):
        lloydmax.verify(stored)
    forge(stored, tensors={"0.weight.codes": torch.zeros(3, dtype=torch.uint8)})
    with pytest.raises(lloydmax.CheckpointError, match="3 bytes, not 2"):
        lloydmax.verify(stored)
    with pytest.raises(lloydmax.CheckpointError, match=r"0.weight is \(4, 6\) in the file, \(8, 3\)"):
        forge(stored, tensors={"0.weight.codes": torch.zeros(2, dtype=torch.uint8)})
        lloydmax.load(stored, nn.Sequential(nn.Linear(3, 8, bias=False)))


def test_a_broken_codebook_is_not_written(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    held = lloydmax.fit_codebook(model[0].weight, 3, block=3)
    attach(model, "0.weight", held)
    model[0].parametrizations.weight[0].codes = torch.full_like(held.codes, 7)
    with pytest.raises(lloydmax.CheckpointError, match=r"codes 7 \.\. 7 for 3"):
        lloydmax.save(model, tmp_path / "a")
    assert not list(tmp_path.iterdir())
