"""Vector codebooks in every host."""

from __future__ import annotations

import copy

import lloydmax
import pytest
import torch
from torch import nn


def test_torch_ao_in_blocks() -> None:
    tq = pytest.importorskip("torch.ao.quantization.quantize_fx")
    from lloydmax.integrations import torch_ao

    model, x = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval(), torch.randn(5, 8)
    recipe = {"quantize": [{"layers": "0", "centroids": 3, "block": 4, "granularity": "channel"}]}
    mapping = tq.QConfigMapping()
    torch_ao.apply_recipe(mapping, recipe, model)
    prepared = tq.prepare_qat_fx(copy.deepcopy(model).train(), mapping, (x,), backend_config=torch_ao.backend_config())
    for _ in range(2):
        prepared(x).sum().backward()
    fresh = tq.prepare_qat_fx(copy.deepcopy(model).train(), mapping, (x,), backend_config=torch_ao.backend_config())
    fresh.load_state_dict(prepared.state_dict())
    converted = [tq.convert_fx(p.eval(), backend_config=torch_ao.backend_config()) for p in (prepared, fresh)]
    torch_ao.verify(converted[0], recipe, model)
    (held,) = lloydmax.codebooks(converted[0]).values()
    assert held.block == 4 and held.shape == (6, 8) and torch.equal(converted[0](x), converted[1](x))


def test_torchao_in_blocks() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    from lloydmax.integrations.torchao import CodebookWeightConfig

    model = nn.Sequential(nn.Linear(8, 6))
    torchao.quantize_(model, CodebookWeightConfig(3, options={"block": 4}))
    assert lloydmax.codebooks(model)["0.weight"].block == 4


def test_pt2e_in_blocks() -> None:
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    from lloydmax.integrations.torchao import CodebookQuantizer
    from lloydmax.integrations.torchao.pt2e import verify

    model, x = nn.Sequential(nn.Conv2d(3, 6, 3)).eval(), torch.randn(2, 3, 7, 7)
    recipe = {"quantize": [{"layers": "all", "centroids": 4, "block": 9}]}
    prepared = pt2e.prepare_pt2e(torch.export.export(model, (x,)).module(), CodebookQuantizer(recipe, model))
    prepared(x)
    converted = pt2e.convert_pt2e(prepared)
    verify(converted, recipe, model)
    with torch.no_grad():
        model[0].weight.copy_(lloydmax.fit_codebook(model[0].weight, 4, block=9).dequantize())
    assert torch.allclose(converted(x), model(x), atol=1e-6)


def test_inc_in_blocks() -> None:
    pytest.importorskip("neural_compressor.torch.quantization")
    from lloydmax.integrations.inc import CodebookConfig
    from neural_compressor.torch.quantization import quantize

    done = quantize(nn.Sequential(nn.Linear(8, 6)), CodebookConfig(centroids=3, block=4))
    assert lloydmax.codebooks(done)["0.weight"].block == 4
