"""Recipes by size inside of INC: ``CodebookConfig(bits=..., data=..., effort=...)``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.integrations.inc import CodebookConfig, load
from neural_compressor.torch.quantization import RTNConfig, TuningConfig, autotune, prepare, quantize, save
from torch import Tensor, nn


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu())


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


DATA = torch.randn(48, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", ["data", "run_fn", "from_recipe"])
def test_it_is_what_recipe_for_does(way: str, net: nn.Module, tmp_path: Path) -> None:
    recipe = lloydmax.recipe_for(net, 4, DATA, 0)
    wanted = lloydmax.compress(net, recipe, DATA, progress=False)
    wanted.save(tmp_path / "a.safetensors")
    given: dict[str, Any] = {"run_args": (DATA,)}
    if way == "data":
        config, given = CodebookConfig(bits=4, data=DATA, effort=0), {}
    elif way == "from_recipe":
        config = CodebookConfig.from_recipe(recipe)
    else:
        config = CodebookConfig(bits=4, effort=0)
    if way == "run_fn":
        given = {"run_fn": lambda model: model(DATA)}
    found = quantize(net, config, **given)
    assert found is net
    assert found.codebook_report.bytes.file == wanted.report.bytes.file
    assert found.codebook_report.agreement == wanted.report.agreement
    save(found, str(tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    assert torch.equal(load(str(tmp_path), original_model=Small())(DATA), found(DATA))


def test_layers_that_are_left_alone(net: nn.Module) -> None:
    def held(config: Any) -> set[str]:
        return set(lloydmax.codebooks(quantize(copy.deepcopy(net), config)))

    size = {"bits": 12, "data": DATA, "effort": 0}
    assert held(CodebookConfig(**size, white_list=["second"])) == {"second.weight"}
    assert held(CodebookConfig(**size).set_local("head", CodebookConfig(dtype="fp32"))) == {
        "first.weight",
        "second.weight",
    }
    assert held(CodebookConfig(**size) + RTNConfig(use_layer_wise=False, white_list=["first"])) == {
        "second.weight",
        "head.weight",
    }


def test_mistakes_are_named(net: nn.Module) -> None:
    with pytest.raises(lloydmax.IntegrationError, match=r"call quantize\(model, config, run_args=\(loader,\)\)"):
        prepare(net, CodebookConfig(bits=4, data=DATA))
    with pytest.raises(lloydmax.IntegrationError, match="given twice"):
        quantize(net, CodebookConfig(bits=4, data=DATA), run_args=(DATA,))
    with pytest.raises(lloydmax.RecipeError, match=r"to_recipe\(model\)"):
        CodebookConfig(bits=4, effort=0).to_recipe()
    with pytest.raises(lloydmax.IntegrationError, match="effort cannot be set for single layers"):
        CodebookConfig().set_local("head", CodebookConfig(effort=0))


def test_data_of_a_configuration_are_used_for_recovery(net: nn.Module) -> None:
    options: dict[str, Any] = {"centroids": 4, "trainable": "all", "recover": {"step": "distill", "steps": 2}}
    wanted = quantize(copy.deepcopy(net), CodebookConfig(**options), run_args=(DATA,))
    assert torch.equal(quantize(net, CodebookConfig(**options, data=DATA))(DATA), wanted(DATA))


@pytest.mark.filterwarnings("ignore:no configuration reached")
def test_trials_share_importances_and_give_what_a_plain_call_gives(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lloydmax_strategies.importances import Fisher

    measured, measure = [], Fisher.measure

    def counted(self: Any, model: nn.Module, names: Any, *rest: Any, **more: Any) -> Any:
        measured.append(len(names))
        return measure(self, model, names, *rest, **more)

    monkeypatch.setattr(Fisher, "measure", counted)
    for field, values in (("centroids", [2, 4, 8]), ("bits", [5, 6, 7])):
        more = {"importance": "fisher"} if field == "centroids" else {"effort": 0}
        outputs: list[Tensor] = []

        def evaluate(model: nn.Module, outputs: list[Tensor] = outputs) -> float:
            outputs.append(model(DATA))
            return 1.0 if len(outputs) == 1 else 0.5

        measured.clear()
        config = CodebookConfig(**{field: values, **more})
        autotune(copy.deepcopy(net), TuningConfig(config_set=[config]), eval_fn=evaluate, run_args=(DATA,))
        assert len(measured) == 1
        plain = quantize(copy.deepcopy(net), CodebookConfig(**{field: values[1], **more}), run_args=(DATA,))
        assert torch.equal(outputs[2], plain(DATA))
