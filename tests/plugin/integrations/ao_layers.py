"""What the tests of torch.ao.quantization share: recipes for real networks, and what their layers are."""

from __future__ import annotations

import warnings

import lloydmax
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torch.ao.quantization.quantize_fx")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from lloydmax.integrations.torch_ao import CodebookFakeQuantize


RESNET = {
    "quantize": [
        {"layers": ["layer1.0.conv1", "layer4.1.conv?", "fc"], "centroids": 64},
        {"layers": "layer2.0.downsample.0", "centroids": 16, "granularity": "channel"},
    ],
    "trainable": ["codebooks", "unquantized"],
}
DIGITS = {"quantize": [{"layers": "fc_layers.0", "centroids": 2}], "trainable": ["codebooks", "unquantized"]}


def int8_layers(model: nn.Module) -> int:
    return sum(hasattr(m, "_weight_bias") and hasattr(m, "scale") for m in model.modules())


def trained(prepared: nn.Module) -> list[Tensor]:
    """The weights that the prepared model computes with."""
    return [m.codebook().dequantize() for m in prepared.modules() if isinstance(m, CodebookFakeQuantize)]


def held(converted: nn.Module) -> list[Tensor]:
    return [codebook.dequantize() for codebook in lloydmax.codebooks(converted).values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) > 0 and all(map(torch.equal, first, second))
