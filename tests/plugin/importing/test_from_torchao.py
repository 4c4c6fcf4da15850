"""torchao's prototype codebook tensors, made by torchao, become codebooks with the same values."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lloydmax
import pytest
import torch
from torch import nn

torchao = pytest.importorskip("torchao")
X = torch.linspace(-1, 1, 5 * 32).reshape(5, 32)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16, bias=False), nn.Linear(16, 4)).to(dtype)


def quantized(config: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    from torchao.quantization import quantize_

    model = network(dtype)
    quantize_(model, config, filter_fn=lambda module, name: name in ("0", "2"))
    return model.eval()


def check(model: Any, dtype: torch.dtype = torch.float32) -> dict[str, lloydmax.Codebook]:
    made: Any = lloydmax.from_torchao(model)
    held = lloydmax.codebooks(made)
    assert set(held) == {"0.weight", "2.weight"}
    for name, codebook in held.items():
        assert (
            torch.equal(codebook.dequantize(), model.get_parameter(name).dequantize())
            and codebook.centroids.dtype == dtype
        )
    with torch.no_grad():
        torch.testing.assert_close(made(X.to(dtype)), model(X.to(dtype)))
    return held


@pytest.mark.parametrize(
    ("block", "granularity", "axis"),
    [([-1, -1], "tensor", 0), ([8, -1], "group:8", 0), ([1, -1], "channel", 0), ([-1, 16], "group:16", 1)],
)
def test_coreml(block: list[int], granularity: str, axis: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        pytest.importorskip("coremltools")
        logging.disable(logging.NOTSET)
    from torchao.prototype.quantization.codebook_coreml import CodebookWeightOnlyConfig

    model: Any = quantized(CodebookWeightOnlyConfig(torch.uint3, block))
    held = check(model)
    for name, codebook in held.items():
        theirs = model.get_parameter(name)
        assert (codebook.granularity, codebook.axis) == (granularity, axis)
        assert torch.equal(codebook.codes, theirs.codes)
        assert torch.equal(codebook.centroids.flatten(), theirs.codebook.flatten().float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [(1, 1), (1, 4)])
def test_scaled_rows(block: tuple[int, int], dtype: torch.dtype) -> None:
    from torchao.prototype.quantization.codebook.codebook_quantized_tensor import CodebookWeightOnlyConfig

    held = check(quantized(CodebookWeightOnlyConfig(torch.uint4, block), dtype), dtype)
    assert all(
        (codebook.k, codebook.block, codebook.granularity) == (16, block[1], "channel") for codebook in held.values()
    )


def test_refusals_are_one_line() -> None:
    from torchao.prototype.quantization.codebook.codebook_quantized_tensor import CodebookWeightOnlyConfig

    for config, said in (
        (CodebookWeightOnlyConfig(torch.uint2, (2, 1)), r"0\.weight: blocks of \(2, 1\) weights"),
        (CodebookWeightOnlyConfig(torch.uint2, (1, 1), 16), "with 2 scales a row"),
    ):
        with pytest.raises(lloydmax.IntegrationError, match=said) as caught:
            lloydmax.from_torchao(quantized(config))
        assert "\n" not in str(caught.value)
    with pytest.raises(lloydmax.IntegrationError, match="holds no codebook tensor of torchao"):
        lloydmax.from_torchao(network())
