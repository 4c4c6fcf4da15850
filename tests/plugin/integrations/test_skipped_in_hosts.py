"""What a rule for all leaves as it is is said once in every host, and what it covers has the right axis there."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from foreign_layers import Conv1D, Experts, InBuffers
from torch import nn

CHANNELS = {"quantize": [{"layers": "all", "centroids": 4, "granularity": "channel"}]}
SHAPES = {"0.weight": (16, 4), "2.up": (96, 4), "2.down": (64, 4), "3.weight": (6, 4)}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Conv1D(12, 16), nn.ReLU(), Experts(), nn.Linear(16, 6)).eval()


def said(work: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What some work gives, and the warnings about what was skipped."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = work()
    return result, [str(each.message) for each in told if "stay as they are" in str(each.message)]


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(book.centroids.shape) for name, book in lloydmax.codebooks(model).items()}


def test_inc(model: nn.Module, tmp_path: Path) -> None:
    inc = pytest.importorskip("neural_compressor.torch.quantization")
    from lloydmax.integrations.inc import CodebookConfig, load

    config = CodebookConfig(centroids=4, granularity="channel")
    done, told = said(lambda: inc.quantize(copy.deepcopy(model), config))
    assert len(told) == 1 and "router" in told[0] and "2.gate.weight" in told[0]
    assert shapes(done) == SHAPES
    done.save(str(tmp_path / "a" / "b"))
    x = torch.randn(2, 5, 12)
    assert torch.equal(load(str(tmp_path / "a" / "b"), copy.deepcopy(model))(x), done(x))
    (tmp_path / "file").write_text("")
    with pytest.raises(lloydmax.OutputError, match="file: is not a folder"):
        done.save(str(tmp_path / "file"))


def test_torch_ao(model: nn.Module) -> None:
    tq = pytest.importorskip("torch.ao.quantization.quantize_fx")
    from lloydmax.integrations import torch_ao

    mapping = tq.QConfigMapping()
    plan, told = said(lambda: torch_ao.apply_recipe(mapping, CHANNELS, model, activation="float"))
    assert len(told) == 1 and "2.up" in told[0] and "only standard layers can: 0.weight" in told[0]
    assert list(plan.parameters) == ["2.gate.weight", "3.weight"]
    backend = torch_ao.backend_config()
    prepared = tq.prepare_fx(copy.deepcopy(model), mapping, (torch.randn(2, 5, 12),), backend_config=backend)
    prepared(torch.randn(2, 5, 12))
    converted = tq.convert_fx(prepared, backend_config=backend)
    assert said(lambda: torch_ao.verify(converted, CHANNELS, model)) == (None, [])


def test_torchao(model: nn.Module) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    from lloydmax.integrations.torchao import recipe_to_config

    config, told = said(lambda: recipe_to_config(CHANNELS, model))
    assert len(told) == 1 and "router" in told[0] and "2.gate.weight" in told[0]
    torchao.quantize_(model, config, filter_fn=None)
    assert shapes(model) == SHAPES
    with pytest.warns(UserWarning, match=r"out, inner\.w: weights in buffers stay as they are"):
        torchao.quantize_(buffers := InBuffers(), recipe_to_config(CHANNELS, buffers), filter_fn=None)
    assert list(lloydmax.codebooks(buffers)) == ["conv.weight"]
    named = {"quantize": [{"layers": "inner", "parameter": "w", "centroids": 4}]}
    with pytest.raises(lloydmax.IntegrationError, match=r"inner\.w is a buffer"):
        recipe_to_config(named, InBuffers())


def test_pt2e(model: nn.Module) -> None:
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    from lloydmax.integrations.torchao import CodebookQuantizer, verify

    quantizer, told = said(lambda: CodebookQuantizer(CHANNELS, model))
    assert len(told) == 1 and "router" in told[0] and "2.gate.weight" in told[0]
    x = torch.randn(2, 5, 12)
    prepared = pt2e.prepare_pt2e(torch.export.export(model, (x,)).module(), quantizer)
    prepared(x)
    converted = pt2e.convert_pt2e(prepared)
    assert said(lambda: verify(converted, CHANNELS, model)) == (None, [])
