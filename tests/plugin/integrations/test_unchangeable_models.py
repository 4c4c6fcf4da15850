"""Models whose layers a host cannot change in place are refused in one sentence; embeddings beside codebooks in FX."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.ao.quantization as tq
from lloydmax import LloydmaxError, codebooks
from lloydmax.integrations.inc import CodebookConfig
from lloydmax.integrations.torch_ao import apply_recipe, backend_config, verify
from lloydmax.integrations.torchao import CodebookWeightConfig, recipe_to_config
from neural_compressor.torch.quantization import prepare, quantize
from torch import Tensor, nn
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torchao.quantization import quantize_

RECIPE = {"quantize": [{"layers": "all", "centroids": 4}]}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return net()


def partly_wrapped() -> nn.Module:
    return nn.Sequential(nn.DataParallel(net()), nn.Linear(4, 4))


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "compiled": (lambda: torch.compile(net()), "the model is wrapped in OptimizedModule, .*its ._orig_mod"),
    "parallel": (lambda: nn.DataParallel(net()), "the model is wrapped in DataParallel, .*its .module"),
    "partly": (partly_wrapped, "0 is wrapped in DataParallel"),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(net()), "wrapped in AveragedModel"),
    "scripted": (lambda: torch.jit.script(net()), "is a ScriptModule"),
    "traced": (lambda: torch.jit.trace(net(), torch.ones(1, 8)), "is a ScriptModule"),
    "inference": (in_inference_mode, "0.weight was made in torch.inference_mode"),
}
ENTRIES: dict[str, Callable[[nn.Module], object]] = {
    "inc quantize": lambda model: quantize(model, CodebookConfig(4)),
    "inc prepare": lambda model: prepare(model, CodebookConfig(4)),
    "fx": lambda model: apply_recipe(tq.get_default_qconfig_mapping("x86"), RECIPE, model),
    "eager": lambda model: apply_recipe(None, RECIPE, model),
    "torchao": lambda model: recipe_to_config(RECIPE, model),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", MODELS)
def test_is_refused_in_one_sentence(entry: str, kind: str) -> None:
    make, said = MODELS[kind]
    with pytest.raises(LloydmaxError, match=said):
        ENTRIES[entry](make())


@pytest.mark.parametrize("kind", ["compiled", "parallel"])
def test_what_torchao_sees_module_by_module_may_be_wrapped(kind: str) -> None:
    model = MODELS[kind][0]()
    quantize_(model, CodebookWeightConfig(4))
    assert [book.k for book in codebooks(model).values()] == [4, 4]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), "computed by WeightNorm.*remove_parametriz"),
        (lambda: nn.utils.prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5), r"L1Unstructured.*prune.remove\(lay"),
        (lambda: nn.Linear(8, 8).double(), "weight is float64.*call model.float()"),
        (lambda: torch.jit.script(nn.Linear(8, 8)), "is a ScriptModule"),
    ],
)
def test_torchao_tells_why_a_weight_cannot_have_a_codebook(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(LloydmaxError, match=said):
        quantize_(make(), CodebookWeightConfig(4), filter_fn=lambda module, name: True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torch_ao_quantizes_float32_only(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    with pytest.raises(LloydmaxError, match="activations of float32 only: call model.float"):
        apply_recipe(tq.get_default_qconfig_mapping("x86"), RECIPE, model)
    mapping = tq.QConfigMapping()
    apply_recipe(mapping, RECIPE, model, activation="float")
    inputs = (torch.ones(2, 8, dtype=dtype),)
    extended = backend_config()
    converted = convert_fx(prepare_fx(model, mapping, inputs, backend_config=extended), backend_config=extended)
    assert converted(*inputs).dtype == dtype
    verify(converted, RECIPE, net())


def test_layers_at_several_places_are_refused_in_eager_mode() -> None:
    layer = nn.Linear(8, 8)
    model = tq.QuantWrapper(nn.Sequential(layer, nn.ReLU(), layer)).eval()
    model.qconfig = tq.get_default_qconfig("x86")
    with pytest.raises(LloydmaxError, match="several places, of which eager mode converts one"):
        apply_recipe(None, RECIPE, model)


@pytest.mark.parametrize("layers", [["0"], ["1"], ["0", "1"]])
def test_embeddings_are_not_observed(layers: list[str]) -> None:
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4)).eval()
    recipe = {"quantize": [{"layers": layers, "centroids": 4}]}
    mapping = tq.get_default_qconfig_mapping("x86")
    apply_recipe(mapping, recipe, model)
    inputs: tuple[Tensor] = (torch.arange(10).view(2, 5),)
    extended = backend_config()
    prepared = prepare_fx(copy.deepcopy(model), mapping, inputs, backend_config=extended)
    prepared(*inputs)
    converted = convert_fx(prepared, backend_config=extended)
    assert converted(*inputs).shape == (2, 5, 4)
    verify(converted, recipe, model)
