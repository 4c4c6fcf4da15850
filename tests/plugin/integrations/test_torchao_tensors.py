"""Codebooks become torchao's prototype tensors, and come back from them."""

from __future__ import annotations

import io
import warnings
from typing import Any

import lloydmax
import pytest
import torch
from torch import nn

torchao = pytest.importorskip("torchao")
X = torch.linspace(-1, 1, 5 * 32).reshape(5, 32)


def compressed(dtype: torch.dtype = torch.float32, **rule: Any) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16, bias=False), nn.Linear(16, 4)).to(dtype)
    size = {} if "quantizer" in rule else {"centroids": 5}
    recipe = {"quantize": [{"layers": ["0", "2"], **size, **rule}]}
    return lloydmax.compress(model, recipe, progress=False).model


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:8", "weights:16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back(granularity: str, dtype: torch.dtype) -> None:
    from lloydmax.integrations.torchao import to_torchao

    rule: Any = {"quantizer": "uniform", "bits": 3} if granularity.startswith("weights") else {}
    model = compressed(dtype, granularity=granularity, **rule)
    made: Any = to_torchao(model)
    x = X.to(dtype)
    with torch.no_grad():
        assert torch.equal(made(x), model(x))
    held = lloydmax.codebooks(model)
    assert not lloydmax.codebooks(made) and all(type(made.get_parameter(name)) is not nn.Parameter for name in held)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    assert file.tell() < 32_000
    if not granularity.startswith("weights"):  # tables along both axes do not come back
        back = lloydmax.codebooks(lloydmax.from_torchao(made))
        assert set(back) == set(held)
        for name, codebook in held.items():
            assert torch.equal(back[name].dequantize(), codebook.dequantize())
            assert (back[name].granularity, back[name].axis) == (granularity, 0)
            assert torch.equal(back[name].codes, codebook.codes)


def test_what_torchao_has_no_tensor_for_is_named() -> None:
    from lloydmax.integrations.torchao import to_torchao

    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 6, 16), nn.Linear(16, 3))
    model[3].weight = nn.Parameter(torch.randn(3, 16))
    rules = [{"layers": "all", "centroids": 4}, {"layers": "3", "centroids": 300}]
    made = lloydmax.compress(model, {"quantize": rules}, progress=False).model
    with pytest.warns(
        UserWarning, match="weights in codebooks have no tensor in torchao and become ordinary: 0.weight"
    ):
        tensors: Any = to_torchao(made)
    x = torch.randn(2, 4, 8)
    torch.testing.assert_close(tensors(x), made(x))
    with pytest.raises(lloydmax.IntegrationError, match="no codebook of this model"):
        to_torchao(compressed(block=4))
    with pytest.raises(lloydmax.LloydmaxError, match="no codebook"), warnings.catch_warnings():
        to_torchao(nn.Linear(2, 2))


def test_tied_weights_stay_tied() -> None:
    from lloydmax.integrations.torchao import to_torchao

    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    model[1].weight = model[0].weight
    made: Any = to_torchao(
        lloydmax.compress(model, {"quantize": [{"layers": "all", "centroids": 4}]}, progress=False).model
    )
    assert made[0].weight is made[1].weight
