"""Vector codebooks in a model."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import lloydmax
import torch
from conftest import SmallNet
from lloydmax.student.attachment import attach, attached
from lloydmax.student.layers import CodebookConvTranspose2d
from torch import Tensor, nn

RECIPE = {
    "quantize": [
        {"layers": "all", "centroids": 8, "block": 4},
        {"layers": ["stem", "depthwise", "padded"], "centroids": 4, "block": 9},
        {"layers": "head.2", "centroids": 3, "block": 2, "granularity": "channel"},
    ],
    "trainable": ["all"],
}


def test_the_gradient_of_a_centroid_is_the_mean_over_its_blocks() -> None:
    model, x = nn.Sequential(nn.Linear(8, 6, bias=False)), torch.randn(5, 8)
    attach(model, "0.weight", lloydmax.fit_codebook(model[0].weight, 3, block=4))
    ((_, _, _, held, centroids),) = attached(model)
    centroids.requires_grad_(True)
    model(x).square().sum().backward()
    weight = held.layout.decode(centroids.detach(), held.codes).requires_grad_(True)
    (x @ weight.T).square().sum().backward()
    blocks, codes = weight.grad.reshape(-1, 4), held.codes.reshape(-1).long()
    for code in range(3):
        assert torch.allclose(centroids.grad[code], blocks[codes == code].mean(0), rtol=1e-4, atol=1e-5)
    assert torch.autograd.gradcheck(
        lambda c: held.layout.decode(c, held.codes), centroids.detach().double().requires_grad_(True)
    )


def test_transposed_convolutions(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2)), torch.randn(1, 4, 5, 5)
    rule = {"layers": "all", "centroids": 3, "block": 9, "granularity": "channel"}
    result = lloydmax.compress(model, {"quantize": [rule]}, progress=False)
    held = lloydmax.codebooks(result.model)["0.weight"]
    assert isinstance(result.model[0], CodebookConvTranspose2d) and held.codes.shape == (3, 4)
    with torch.no_grad():
        model[0].weight.copy_(held.dequantize())
    assert torch.equal(result.model(x), model(x))
    result.save(tmp_path / "a")
    assert torch.equal(lloydmax.load(tmp_path / "a", copy.deepcopy(model))(x), model(x))


def test_compiled_exported_copied(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    result = lloydmax.compress(small_net, RECIPE, progress=False)
    expected = result.model(pictures)
    program = torch.export.export(result.model, (pictures,))
    assert torch.allclose(program.module()(pictures), expected, atol=1e-5)
    assert torch.equal(copy.deepcopy(result.model)(pictures), expected)
    assert torch.equal(lloydmax.set_cache(result.model, False)(pictures), expected)
    assert json.loads(json.dumps(result.report.to_dict()))["layers"][0]["bits"] == 2 / 9
    assert dataclasses.replace(lloydmax.codebooks(result.model)["stem.weight"]).shape == (8, 3, 3, 3)
