"""Weights outside of the standard layers, through the whole job: fitted, trained, saved, loaded, exported."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from foreign_layers import Classifier, Conv1D, Experts, InBuffers, OwnLinear
from torch import Tensor, nn

LEARNING = {"trainable": ["all"], "recover": [{"step": "distill", "steps": 2, "batch_size": 16}]}


def gpt() -> nn.Module:
    return nn.Sequential(Conv1D(16, 24), nn.ReLU(), OwnLinear(24, 20), nn.ReLU(), Conv1D(20, 6))


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().eval()


def inputs(model: nn.Module) -> Tensor:
    shape = (48, 12, 16) if isinstance(model, InBuffers) else (48, 8, 16)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def reloaded(result: lloydmax.Result, model: nn.Module, path: Path) -> nn.Module:
    """What a file gives back, and that it gives the same."""
    result.save(path)
    again = lloydmax.load(path, copy.deepcopy(model))
    with torch.no_grad():
        assert torch.equal(again(inputs(model)), result.model(inputs(model)))
    return again


@pytest.mark.parametrize(
    "rule",
    [
        {"centroids": 16, "granularity": "channel"},
        {"centroids": 16, "importance": "fisher"},
        {"centroids": 8, "block": 2},
    ],
)
def test_transposed_linear_layers(rule: dict[str, Any], tmp_path: Path) -> None:
    model = made(gpt)
    result = lloydmax.compress(
        model, {"quantize": [{"layers": "all", **rule}], **LEARNING}, inputs(model), progress=False
    )
    again = reloaded(result, model, tmp_path / "m")
    assert type(again[0]) is not Conv1D and isinstance(again[0], Conv1D)
    books = lloydmax.codebooks(again)
    assert {name: book.axis for name, book in books.items()} == {"0.weight": 1, "2.weight": 0, "4.weight": 1}
    made_of = lloydmax.export(result.model, tmp_path / "m.pt2", example_inputs=inputs(model)[:2])
    assert made_of.difference is not None and made_of.difference < 1e-5


@pytest.mark.parametrize("build", [Experts, Classifier, lambda: nn.LSTM(16, 20, batch_first=True)])
def test_a_recipe_for_a_model_covers_what_all_does_not(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = made(build)
    recipe = lloydmax.recipe_for(model, 12)
    result = lloydmax.compress(model, recipe, progress=False)
    large = {name for name, p in model.named_parameters() if p.dim() > 1 and p.numel() >= 1024}
    assert large <= set(lloydmax.codebooks(result.model))
    if not isinstance(model, nn.LSTM):
        reloaded(result, model, tmp_path / "m")


@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize("effort", [None, 0.01])
def test_weights_in_buffers(bits: float, effort: float | None, tmp_path: Path) -> None:
    model = made(InBuffers)
    data = None if effort is None else inputs(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.mask.zero_()
    recipe = lloydmax.recipe_for(model, bits, data, **({} if effort is None else {"effort": effort}))
    result = lloydmax.compress(model, recipe, data, progress=False)
    again = reloaded(result, model, tmp_path / "m")
    books = lloydmax.codebooks(again)
    assert {"inner.w", "inner.again", "out", "conv.weight", "mask"} == set(books)
    assert torch.equal(books["inner.w"].codes, books["inner.again"].codes) and not books["mask"].dequantize().any()
    weights = (
        sum(p.numel() for p in model.parameters()) + model.inner.w.numel() + model.out.numel() + model.mask.numel()
    )
    assert result.plan.total_weights == weights and result.report.bytes.file <= bits / 8 * weights * 1.01
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name != "mask")
    assert {"inner.w", "out"} <= set(dict(model.named_buffers()))


def test_a_buffer_that_is_not_finite_stays(tmp_path: Path) -> None:
    model = made(InBuffers)
    result = lloydmax.compress(model, lloydmax.recipe_for(model, 16), progress=False)
    assert "mask" not in lloydmax.codebooks(result.model) and any("mask (40x40" in note for note in result.report.notes)
    assert torch.equal(reloaded(result, model, tmp_path / "m").mask, model.mask)


def test_weights_in_buffers_beside_int8_activations(tmp_path: Path) -> None:
    model = made(InBuffers)
    rules = {"quantize": [{"layers": "all", "quantizer": "uniform", "bits": 8}], "activations": {"bits": 8}}
    result = lloydmax.compress(model, {**rules, **LEARNING}, inputs(model), progress=False)
    assert list(lloydmax.codebooks(result.model)) == ["conv.weight"] and not list(result.model.parameters())
    reloaded(result, model, tmp_path / "m")


def test_a_search_chooses_for_them_too() -> None:
    model = made(gpt)
    recipe = {"quantize": [{"layers": "all"}]}
    found = lloydmax.search(model, recipe, inputs(model), {"bits": 4}, centroids=[2, 8, 16], samples=32)
    assert {row["unit"] for row in found.rows()} == {"0.weight", "2.weight", "4.weight"}
    assert lloydmax.plan(model, found.recipe).parameters["0.weight"].axis == 1


def test_a_model_that_no_file_can_hold_is_refused_before_the_work() -> None:
    class Busy(nn.Linear):
        def get_extra_state(self) -> object:
            return object()

        def set_extra_state(self, state: object) -> None:
            raise AssertionError

        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("ran")

    model = nn.Sequential(Busy(8, 8), nn.Linear(8, 8)).eval()
    with pytest.raises(lloydmax.CheckpointError, match="'0' .*extra_state"):
        lloydmax.compress(model, {"quantize": [{"layers": "all", "centroids": 4}]}, torch.randn(64, 8), progress=False)
