"""torch.ao.quantization, FX: codebook layers beside int8 layers, on real networks."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
import torchvision
from ao_layers import RESNET, int8_layers
from ao_models import agreement, difference, efficientnet, photos, settled
from lloydmax.student.layers import CodebookLayer
from torch import Tensor, nn

pytest.importorskip("torch.ao.quantization.quantize_fx")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch.ao.quantization as tq
    from lloydmax.integrations.torch_ao import apply_recipe, backend_config, codebook_qconfig, verify
    from torch.ao.quantization import backend_config as backends
    from torch.ao.quantization.backend_config.x86 import get_x86_backend_config
    from torch.ao.quantization.quantize_fx import convert_fx, fuse_fx, prepare_fx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quant_min:UserWarning")
RESNET_WEIGHTS = {
    "layer1.0.conv1.0.weight",
    "layer2.0.downsample.0.weight",
    "layer4.1.conv1.0.weight",
    "layer4.1.conv2.weight",
    "fc.weight",
}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return settled(torchvision.models.resnet18())


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("activation", ["mapping", "float"])
def test_fx_after_training_beside_int8(resnet: nn.Module, x: Tensor, activation: str) -> None:
    mapping = tq.get_default_qconfig_mapping("x86")
    plan = apply_recipe(mapping, RESNET, resnet, activation=activation)
    prepared = prepare_fx(copy.deepcopy(resnet), mapping, (x,), backend_config=backend_config())
    prepared(x)
    converted = convert_fx(prepared, backend_config=backend_config())
    verify(converted, RESNET)
    verify(converted, plan)
    verify(converted, RESNET, original=resnet)
    assert set(lloydmax.codebooks(converted)) == RESNET_WEIGHTS
    assert sum(isinstance(m, CodebookLayer) for m in converted.modules()) == 5
    assert int8_layers(converted) == 21 - 5
    assert difference(converted(x), resnet(x)) < 0.2
    layer = converted.get_submodule("layer4.1.conv2")
    folded = torch.nn.utils.fusion.fuse_conv_bn_eval(resnet.layer4[1].conv2, resnet.layer4[1].bn2)
    wanted = lloydmax.fit_codebook(folded.weight, 64)
    assert torch.equal(layer.weight, wanted.dequantize()) and torch.equal(layer.bias, folded.bias)


def test_fx_codebooks_only_stores_like_any_codebook_model(resnet: nn.Module, x: Tensor, tmp_path: Path) -> None:
    mapping = tq.QConfigMapping()
    apply_recipe(mapping, RESNET, resnet)
    prepared = prepare_fx(copy.deepcopy(resnet), mapping, (x,), backend_config=backend_config())
    converted = convert_fx(prepared, backend_config=backend_config())
    verify(converted, RESNET)
    assert int8_layers(converted) == 0
    lloydmax.save(converted, tmp_path / "m.safetensors")
    fused = convert_fx(prepare_fx(settled(torchvision.models.resnet18()), tq.QConfigMapping(), (x,)))
    loaded = lloydmax.load(tmp_path / "m.safetensors", fused)
    assert torch.equal(loaded(x), converted(x))
    assert torch.equal(lloydmax.load(tmp_path / "m.safetensors", fuse_fx(copy.deepcopy(resnet)))(x), converted(x))
    with pytest.raises(lloydmax.CheckpointError, match=r"load it into torch\.ao\.quantization\.quantize_fx\.fuse_fx"):
        lloydmax.load(tmp_path / "m.safetensors", copy.deepcopy(resnet))
    with pytest.raises(lloydmax.ModelError, match=r"write torch\.jit\.trace\(model, inputs\)"):
        torch.jit.script(converted)


def test_a_mixed_model_is_refused_with_the_reason_and_keeps_by_state_dict(
    resnet: nn.Module, x: Tensor, tmp_path: Path
) -> None:
    def make() -> nn.Module:
        mapping = tq.get_default_qconfig_mapping("x86")
        apply_recipe(mapping, RESNET, resnet)
        prepared = prepare_fx(copy.deepcopy(resnet), mapping, (x,), backend_config=backend_config())
        prepared(x if not made else torch.zeros_like(x))
        return convert_fx(prepared, backend_config=backend_config())

    made: list[nn.Module] = []
    made.append(make())
    with pytest.raises(lloydmax.CheckpointError, match=r"int8 layers of torch\.ao .*torch\.save"):
        lloydmax.save(made[0], tmp_path / "m.safetensors")
    torch.save(made[0].state_dict(), tmp_path / "m.pt")
    other = make()
    other.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    assert torch.equal(other(x), made[0](x))
    assert (tmp_path / "m.pt").stat().st_size < 14e6


def test_a_forgotten_backend_config_warns_and_is_caught(resnet: nn.Module, x: Tensor) -> None:
    mapping = tq.get_default_qconfig_mapping("x86")
    apply_recipe(mapping, RESNET, resnet)
    with pytest.warns(UserWarning, match=r"silently stay float.*backend_config"):
        prepared = prepare_fx(copy.deepcopy(resnet), mapping, (x,))
    converted = convert_fx(prepared)
    with pytest.raises(lloydmax.PlanMismatchError, match=r"layer4\.1\.conv2\.weight has no codebook.*backend_config"):
        verify(converted, RESNET)


def test_no_warning_with_the_backend_config(resnet: nn.Module, x: Tensor) -> None:
    mapping = tq.get_default_qconfig_mapping("x86")
    apply_recipe(mapping, RESNET, resnet)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*stay float.*")
        prepare_fx(copy.deepcopy(resnet), mapping, (x,), backend_config=backend_config())


def test_a_backend_config_forgotten_at_conversion_is_caught(resnet: nn.Module, x: Tensor) -> None:
    mapping = tq.get_default_qconfig_mapping("x86")
    apply_recipe(mapping, RESNET, resnet)
    prepared = prepare_fx(copy.deepcopy(resnet), mapping, (x,), backend_config=backend_config())
    with pytest.raises(lloydmax.PlanMismatchError, match="has no codebook"):
        verify(convert_fx(prepared), RESNET)


@pytest.mark.parametrize("name", ["x86", "onednn", "qnnpack", "native"])
def test_every_base_is_extended_and_left_alone(name: str) -> None:
    torch.manual_seed(0)
    make = get_x86_backend_config if name == "x86" else getattr(backends, f"get_{name}_backend_config")
    base = make()
    before = str(base.to_dict())
    extended = backend_config(base)
    assert str(base.to_dict()) == before
    assert not any(d.weight_dtype == torch.uint8 for c in make().configs for d in c.dtype_configs)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 9)
    ).eval()
    x = torch.randn(2, 3, 10, 10)
    for engine in ("x86" if name == "native" else name,):
        if engine not in torch.backends.quantized.supported_engines:
            pytest.skip(engine)
        previous = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            recipe = {"quantize": [{"layers": ["0", "6"], "centroids": 16}]}
            mapping = tq.get_default_qconfig_mapping(engine)
            apply_recipe(mapping, recipe, model)
            prepared = prepare_fx(copy.deepcopy(model), mapping, (x,), backend_config=extended)
            prepared(x)
            converted = convert_fx(prepared, backend_config=extended)
            verify(converted, recipe, original=model)
            assert int8_layers(converted) == 1
            assert difference(converted(x), model(x)) < 0.2
        finally:
            torch.backends.quantized.engine = previous


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (2, 6, 7, 7)),
    "linear relu": (nn.Sequential(nn.Linear(6, 5), nn.ReLU()), (2, 6)),
    "linear bn": (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), (2, 6)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_layer_types_and_fused_patterns(kind: str, granularity: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[kind]
    model = nn.Sequential(copy.deepcopy(layer)).eval()
    recipe = {"quantize": [{"layers": "all", "centroids": 1000, "granularity": granularity}]}
    mapping = tq.QConfigMapping()
    apply_recipe(mapping, recipe, model)
    x = torch.randn(shape)
    prepared = prepare_fx(copy.deepcopy(model), mapping, (x,), backend_config=backend_config())
    converted = convert_fx(prepared, backend_config=backend_config())
    verify(converted, recipe, original=model)
    assert torch.allclose(converted(x), model(x), atol=1e-6)


def test_what_torch_ao_cannot_do_is_refused() -> None:
    model = efficientnet()
    with pytest.raises(lloydmax.IntegrationError, match=r"_conv_stem\.weight.*CodebookQuantizer"):
        apply_recipe(tq.QConfigMapping(), {"quantize": [{"layers": "_conv_stem", "centroids": 16}]}, model)
    with pytest.raises(lloydmax.RecipeError, match="fcc"):
        apply_recipe(tq.QConfigMapping(), {"quantize": [{"layers": "fcc", "centroids": 16}]}, model)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(lloydmax.IntegrationError, match="tied"):
        apply_recipe(tq.QConfigMapping(), {"quantize": [{"layers": "all", "centroids": 2}]}, tied)
    with pytest.raises(lloydmax.FitError, match="granularity"):
        codebook_qconfig(16, "row")
    with pytest.raises(lloydmax.IntegrationError, match=r"original="):
        verify(model, {"quantize": [{"layers": "all", "centroids": 77}]})


@pytest.mark.slow
def test_efficientnet_classifier_beside_int8_convolutions() -> None:
    model, x = efficientnet(), photos(16, 96)
    recipe = {"quantize": [{"layers": "_fc", "centroids": 16}]}

    def converted(mapping: Any) -> nn.Module:
        prepared = prepare_fx(copy.deepcopy(model), mapping, (x,), backend_config=backend_config())
        prepared(x)
        return convert_fx(prepared, backend_config=backend_config())

    mapping = tq.get_default_qconfig_mapping("x86")
    int8 = converted(mapping)
    apply_recipe(mapping, recipe, model)
    mixed = converted(mapping)
    verify(mixed, recipe, original=model)
    assert set(lloydmax.codebooks(mixed)) == {"_fc.weight"}
    assert agreement(mixed, int8, x) >= 0.6


ABSENT = """
    import sys, warnings
    import torch
    for name in [n for n in sys.modules if n.startswith(("torch.ao.quantization", "torch.ao.nn"))]:
        del sys.modules[name]
    del torch.ao.quantization
    sys.modules["torch.ao.quantization"] = None
    import lloydmax
    import lloydmax.integrations.torch_ao as torch_ao
    assert "apply_recipe" in torch_ao.__all__
    for name in torch_ao.__all__:
        try:
            getattr(torch_ao, name)
        except lloydmax.IntegrationError as error:
            assert "torchao" in str(error), error
        else:
            raise SystemExit(f"{name} did not raise")
    try:
        torch_ao.nonsense
    except AttributeError:
        print("as it should be")
"""
NOTES = """
    import sys, warnings
    import lloydmax.integrations.torch_ao
    assert "torch.ao.quantization.fx.prepare" not in sys.modules
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        from lloydmax.integrations.torch_ao import codebook_qconfig, apply_recipe, backend_config, eager_mapping
        codebook_qconfig(4), backend_config(), eager_mapping(), backend_config()
    notes = [str(w.message) for w in seen if issubclass(w.category, (DeprecationWarning, FutureWarning))]
    assert len(notes) == 1 and "torchao.recipe_to_config(recipe, model)" in notes[0], notes
    print("as it should be")
"""


@pytest.mark.parametrize("script", [ABSENT, NOTES], ids=["torch.ao gone", "one deprecation note"])
def test_import(script: str) -> None:
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "as it should be", found.stderr
