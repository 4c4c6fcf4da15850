"""Shapes that a model computes in tensors, traced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.exporting.known import Numbers, known_numbers
from torch import Tensor, nn


class Shapes(nn.Module):
    """What importers make of ``x.reshape(x.shape[0], -1, 4)`` and the like: arithmetic of small tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 16, 3, padding=1)
        self.register_buffer("zero", torch.tensor(0))
        self.register_buffer("rest", torch.tensor([-1, 4]))
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu() * self.scale
        shape = torch.tensor(x.shape, device=x.device)
        first = torch.unsqueeze(shape[self.zero.to(torch.int64)] * 2, 0)
        wanted = torch.cat([first // 2, self.rest], 0)
        if torch.any(wanted == 0):
            raise AssertionError
        return torch.reshape(y, torch.Size(wanted)).sum(-1)


def compressed(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return lloydmax.compress(model.eval(), {"quantize": [{"layers": "all", "centroids": 16}]}, progress=False).model


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_a_dynamic_batch_of_shapes_in_tensors(ending: str, tmp_path: Path) -> None:
    model, x = compressed(Shapes()), torch.randn(3, 4, 8)
    before = dict(model.named_buffers())
    assert lloydmax.export(model, tmp_path / f"m.{ending}", example_inputs=x).difference < 1e-5
    assert dict(model.named_buffers()) == before
    if ending == "pt2":
        run = torch.export.load(tmp_path / "m.pt2").module()
        assert run(torch.randn(5, 4, 8)).shape == model(torch.randn(5, 4, 8)).shape


def test_a_batch_that_the_model_fixes_is_exported_fixed(tmp_path: Path) -> None:
    class Fixed(Shapes):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).reshape(3, 128)

    with pytest.warns(UserWarning, match="m.pt2 takes 3 samples at a time, as many as example_inputs has: for any"):
        lloydmax.export(compressed(Fixed()), tmp_path / "m.pt2", example_inputs=torch.randn(3, 4, 8))
    run = torch.export.load(tmp_path / "m.pt2").module()
    assert run(torch.randn(3, 4, 8)).shape == (3, 128)
    with pytest.raises(lloydmax.ExportError, match=r"^torch: torch.export cannot trace Fixed: shape '\[3, 128\]'"):
        lloydmax.export(compressed(Fixed()), tmp_path / "m.pt2", example_inputs=torch.randn(2, 4, 8))


def same(found: Any, wanted: Tensor) -> None:
    assert isinstance(found, Numbers) and found.dtype == wanted.dtype and found.tolist() == wanted.tolist()


def test_numbers_are_what_tensors_are() -> None:
    model = nn.Module()
    given = torch.tensor([2, 3, 4])
    model.register_buffer("given", given)
    model.register_buffer("axes", torch.tensor([2, 0]))
    model.forward = lambda x: x[: model.given[0]]  # type: ignore[method-assign]
    with known_numbers(model) as knowing:
        x, axes = model.given, model.axes
        same(x[1:], given[1:])
        same(x[axes], given[[2, 0]])
        same(torch.index_select(x, 0, axes), given[[2, 0]])
        same(2 * x + 1, 2 * given + 1)
        same((x - 1) // 2, (given - 1) // 2)
        same(-x % 3, -given % 3)
        same(x.float(), given.float())
        same(torch.stack([x[0], x[2]]), given[[0, 2]])
        same(torch.prod(x), given.prod())
        same(x >= 3, given >= 3)
        same(x.reshape(1, -1).squeeze(0), given)
        assert torch.equal(x + torch.ones(3), given + torch.ones(3)) and torch.Size(x) == (2, 3, 4)
        assert [*x.unbind()] == [*x] or len(x.unbind()) == 3
        assert torch.equal(knowing(torch.arange(5)), torch.arange(2))
    assert model.given is given and "given" not in vars(model)
