"""torchao's own words in a CodebookWeightConfig, and codebooks beside torchao's training and files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

pytest.importorskip("torchao")

from lloydmax.integrations.torchao import CodebookWeightConfig
from torchao.core.config import config_from_dict, config_to_dict
from torchao.quantization import FqnToConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup, quantize_
from torchao.quantization.qat import QATConfig

X = torch.linspace(-1, 1, 8 * 32).reshape(8, 32)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)).eval()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ({"bits": 3}, {"centroids": 8}),
        ({"bits": 4, "centroids": 16, "group_size": -1}, {"centroids": 16, "granularity": "channel"}),
        ({"recipe": {"quantize": [{"layers": "all", "centroids": 5, "granularity": "group:4"}]}}, None),
    ],
)
def test_words_mean_fields(words: dict[str, Any], meant: dict[str, Any] | None) -> None:
    config = CodebookWeightConfig(**words)
    assert config == CodebookWeightConfig(**(meant or {"centroids": 5, "granularity": "group:4"}))
    assert config_from_dict(config_to_dict(config)) == config
    model = network()
    quantize_(model, config)
    assert {codebook.k for codebook in lloydmax.codebooks(model).values()} == {config.centroids}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"bits": 4, "centroids": 8}, r"bits=4 means centroids=16, but centroids=8 is said"),
        ({"bits": 2.5}, r"bits=2\.5: bits of a code are whole numbers from 1 to 16"),
        ({"bits": True}, r"bits=True"),
        ({"group_size": 32}, r"group_size=32: codebooks are shared by whole output channels"),
        ({"recipe": {"quantize": [{"layers": "0", "centroids": 4}]}}, r"recipe_to_config\(recipe, model\)"),
        ({"recipe": {"quantize": [{"layers": "all", "quantizer": "none"}]}}, r"quantizer: none"),
        ({"recipe": {"bits": 3, "quantize": [{"layers": "all"}]}}, r"cannot aim at the size of a file"),
    ],
)
def test_other_words_are_refused_in_one_line(words: dict[str, Any], said: str) -> None:
    with pytest.raises(lloydmax.LloydmaxError, match=said) as caught:
        CodebookWeightConfig(**words)
    assert "\n" not in str(caught.value)


def test_qat_config_is_told_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"which needs no QATConfig: step='prepare', the training, step='convert'"):
        quantize_(network(), QATConfig(CodebookWeightConfig(), step="prepare"))


def test_trained_beside_torchaos_fake_quantizers() -> None:
    teacher, model = network(), network()
    base = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))

    def configs(step: Any) -> FqnToConfig:
        return FqnToConfig({"0": CodebookWeightConfig(bits=2, step=step), "4": QATConfig(base, step=step)})

    quantize_(model, configs("prepare"), filter_fn=None)
    before = (model(X) - teacher(X)).norm()
    centroids = lloydmax.codebooks(model)["0.weight"].centroids.clone()
    lloydmax.distill(model, teacher, X.repeat(8, 1), steps=20, lr=1e-3)
    wanted = model(X)
    quantize_(model, configs("convert"), filter_fn=None)
    assert torch.allclose(model(X), wanted, atol=1e-6) and (wanted - teacher(X)).norm() < before
    assert not torch.equal(lloydmax.codebooks(model)["0.weight"].centroids, centroids)
    assert type(model[4].weight).__name__.startswith("Intx")


def test_safetensors_by_torchaos_convention(tmp_path: Path) -> None:
    support = pytest.importorskip("torchao.prototype.safetensors.safetensors_support")
    config = FqnToConfig({"0": CodebookWeightConfig(bits=4), "2": Int8WeightOnlyConfig(version=2)})
    model, other = network(), network()
    for one in (model, other):
        quantize_(one, config, filter_fn=None)
    wanted = copy.deepcopy(model)(X)
    tensors, said = support.flatten_tensor_state_dict(model.state_dict())
    save_file(tensors, tmp_path / "model.safetensors", said)
    with torch.no_grad():
        other[0].codebooks.weight.centroids.zero_()  # type: ignore[union-attr, operator]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        state, left = support.unflatten_tensor_state_dict(load_file(tmp_path / "model.safetensors"), file.metadata())
    other.load_state_dict(state, assign=True)
    assert torch.equal(other(X), wanted) and not left
    assert tensors["0.codebooks.weight.codes"].dtype == torch.uint8
