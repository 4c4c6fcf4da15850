"""torch.ao.quantization, FX and eager: codebook layers beside int8 layers, on real networks."""

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
from ao_models import agreement, difference, digit_cnn, digits, efficientnet, photos, settled
from lloydmax.student.layers import CodebookLayer
from torch import Tensor, nn

pytest.importorskip("torch.ao.quantization.quantize_fx")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch.ao.quantization as tq
    from lloydmax.integrations.torch_ao import (
        CodebookFakeQuantize,
        apply_recipe,
        backend_config,
        codebook_qconfig,
        eager_mapping,
        verify,
    )
    from torch.ao.quantization import backend_config as backends
    from torch.ao.quantization.backend_config.x86 import get_x86_backend_config
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quant_min:UserWarning")

RESNET = {
    "quantize": [
        {"layers": ["layer1.0.conv1", "layer4.1.conv?", "fc"], "centroids": 64},
        {"layers": "layer2.0.downsample.0", "centroids": 16, "granularity": "channel"},
    ],
    "trainable": ["codebooks", "unquantized"],
}
RESNET_WEIGHTS = {
    "layer1.0.conv1.0.weight",
    "layer2.0.downsample.0.weight",
    "layer4.1.conv1.0.weight",
    "layer4.1.conv2.weight",
    "fc.weight",
}
DIGITS = {"quantize": [{"layers": "fc_layers.0", "centroids": 2}], "trainable": ["codebooks", "unquantized"]}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return settled(torchvision.models.resnet18())


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def int8_layers(model: nn.Module) -> int:
    return sum(hasattr(m, "_weight_bias") and hasattr(m, "scale") for m in model.modules())


def trained(prepared: nn.Module) -> list[Tensor]:
    """The weights that the prepared model computes with."""
    return [m.codebook().dequantize() for m in prepared.modules() if isinstance(m, CodebookFakeQuantize)]


def held(converted: nn.Module) -> list[Tensor]:
    return [codebook.dequantize() for codebook in lloydmax.codebooks(converted).values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) > 0 and all(map(torch.equal, first, second))


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


def test_qat_by_the_users_own_loop(resnet: nn.Module, x: Tensor) -> None:
    mapping = tq.get_default_qat_qconfig_mapping("x86")
    apply_recipe(mapping, RESNET, resnet)
    prepared = prepare_qat_fx(copy.deepcopy(resnet).train(), mapping, (x,), backend_config=backend_config())
    optimizer = torch.optim.Adam(prepared.parameters(), 1e-4)
    wanted = resnet(x).detach()
    losses, codes = [], []
    for step in range(4):
        if step == 2:
            prepared.apply(tq.disable_observer)
            prepared.apply(torch.ao.nn.intrinsic.qat.freeze_bn_stats)
        optimizer.zero_grad()
        loss = (prepared(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
        codes.append(prepared.fc.weight_fake_quant.codebook().codes.clone())
    assert losses[-1] < losses[0]
    fake = prepared.fc.weight_fake_quant
    assert not torch.equal(codes[0], codes[1]), "with the observer enabled, codes follow the weights"
    assert torch.equal(codes[2], codes[3]), "with the observer disabled, codes stay"
    assert fake.centroids.grad is not None and optimizer.state[fake.centroids]
    state = copy.deepcopy(prepared.state_dict())
    converted = convert_fx(prepared.eval(), backend_config=backend_config())
    verify(converted, RESNET)
    fresh = prepare_qat_fx(copy.deepcopy(resnet).train(), mapping, (x,), backend_config=backend_config())
    fresh(x)
    fresh.load_state_dict(state)
    assert same(trained(fresh), held(converted))
    again = convert_fx(fresh.eval(), backend_config=backend_config())
    assert torch.equal(again(x), converted(x))


def test_label_free_qat_with_the_float_teacher() -> None:
    """The flow of the documentation, word for word: the teacher is the model that was prepared."""
    model, (inputs, _) = digit_cnn(), digits(500)
    untouched = copy.deepcopy(model)
    mapping = tq.get_default_qat_qconfig_mapping("x86")
    plan = apply_recipe(mapping, DIGITS, model)
    prepared = prepare_qat_fx(model, mapping, (inputs[:1],), backend_config=backend_config())
    fresh = copy.deepcopy(prepared)
    figures = lloydmax.distill(prepared, teacher=model, data=inputs, epochs=3, lr=1e-3, batch_size=50, held_out=0.0)
    assert figures["precision"] == "float32"
    assert all(map(torch.equal, model.state_dict().values(), untouched.state_dict().values())), "the teacher changed"
    weights = trained(prepared)
    converted = convert_fx(prepared, backend_config=backend_config())
    verify(converted, plan)
    assert same(weights, held(converted))
    assert int8_layers(converted) == 4
    with torch.no_grad():
        fresh.eval()(inputs)
    plain = convert_fx(fresh, backend_config=backend_config())
    distance = [difference(m(inputs), untouched(inputs)) for m in (plain, converted)]
    assert distance[1] < 0.6 * distance[0], distance
    assert agreement(converted, untouched, inputs) > 0.98


@pytest.mark.parametrize(("granularity", "axis"), [("tensor", 0), ("channel", 0), ("group:2", 1)])
def test_weights_are_given_to_their_nearest_centroid(granularity: str, axis: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3)
    codebook = lloydmax.fit_codebook(weight, 4, granularity, axis=axis)
    shuffled = lloydmax.Codebook(codebook.centroids.flip(-1), codebook.codes, granularity, axis)
    found = shuffled.reassigned(weight)
    assert found.codes.shape == weight.shape and found.codes.dtype == torch.uint8
    assert found.mse(weight) <= codebook.mse(weight) + 1e-9 < shuffled.mse(weight)


def test_weight_only_codebooks_convert_to_the_same_outputs() -> None:
    model, (inputs, _) = digit_cnn(), digits(100)
    recipe = {"quantize": [{"layers": "all", "centroids": 8}], "trainable": ["codebooks"]}
    mapping = tq.QConfigMapping()
    apply_recipe(mapping, recipe, model)
    prepared = prepare_qat_fx(copy.deepcopy(model), mapping, (inputs[:1],), backend_config=backend_config())
    lloydmax.distill(prepared, teacher=model, data=inputs, steps=3, batch_size=25, lr=1e-3)
    prepared.eval()
    with torch.no_grad():
        wanted = prepared(inputs)
    converted = convert_fx(prepared, backend_config=backend_config())
    verify(converted, recipe)
    assert torch.allclose(converted(inputs), wanted, atol=1e-5)


def test_frozen_codebooks_stay_while_the_rest_trains() -> None:
    model, (inputs, _) = digit_cnn(), digits(100)
    recipe = {"quantize": [{"layers": "fc_layers.0", "centroids": 4}]}
    mapping = tq.get_default_qat_qconfig_mapping("x86")
    apply_recipe(mapping, recipe, model)
    prepared = prepare_qat_fx(copy.deepcopy(model), mapping, (inputs[:1],), backend_config=backend_config())
    lloydmax.distill(prepared, teacher=model, data=inputs, steps=2, batch_size=25)
    (weight,) = trained(prepared)
    assert torch.equal(weight, lloydmax.fit_codebook(model.fc_layers[0].weight, 4).dequantize())
    assert not torch.equal(prepared.fc_layers.get_submodule("2").weight, model.fc_layers[2].weight)


EAGER = {
    "resnet18": RESNET,
    "mobilenet_v2": {
        "quantize": [
            {"layers": ["features.1?.conv.*", "classifier.1"], "types": ["Conv2d", "Linear"], "centroids": 64}
        ],
        "trainable": ["codebooks"],
    },
}


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 5), ("mobilenet_v2", 25)])
def test_eager_after_training(name: str, layers: int, x: Tensor) -> None:
    model = settled(getattr(torchvision.models.quantization, name)(weights=None, quantize=False))
    fused = copy.deepcopy(model)
    fused.fuse_model()
    fused.qconfig = tq.get_default_qconfig("x86")
    recipe = EAGER[name]
    apply_recipe(None, recipe, fused)
    prepared = tq.prepare(fused)
    prepared(x)
    converted = tq.convert(prepared, mapping=eager_mapping())
    verify(converted, recipe, original=model)
    assert len(lloydmax.codebooks(converted)) == layers
    total = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules())
    assert int8_layers(converted) == total - layers
    stock_model = copy.deepcopy(model)
    stock_model.fuse_model()
    stock_model.qconfig = tq.get_default_qconfig("x86")
    stock = tq.prepare(stock_model)
    stock(x)
    stock = tq.convert(stock)
    assert difference(converted(x), model(x)) < difference(stock(x), model(x)) + 0.1
    with pytest.raises(AssertionError, match="dtype"):
        tq.convert(prepared)


@pytest.mark.parametrize("name", ["resnet18", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_eager_qat(name: str, x: Tensor) -> None:
    model = settled(getattr(torchvision.models.quantization, name)(weights=None, quantize=False))
    student = copy.deepcopy(model).train()
    student.fuse_model(is_qat=True)
    student.qconfig = tq.get_default_qat_qconfig("x86")
    recipe = EAGER[name]
    apply_recipe(None, recipe, student)
    prepared = tq.prepare_qat(student)
    lloydmax.distill(prepared, teacher=model, data=x, steps=2, batch_size=2, held_out=0.0, lr=1e-5)
    prepared.eval()
    weights = trained(prepared)
    wanted = prepared(x)
    converted = tq.convert(prepared, mapping=eager_mapping())
    verify(converted, recipe, original=model)
    assert same(weights, held(converted))
    assert difference(converted(x), wanted) < 0.2


def test_apply_recipe_before_fusing_is_caught(x: Tensor) -> None:
    model = settled(torchvision.models.quantization.resnet18(weights=None, quantize=False))
    wrong = copy.deepcopy(model)
    wrong.qconfig = tq.get_default_qconfig("x86")
    apply_recipe(None, RESNET, wrong)
    wrong.fuse_model()
    prepared = tq.prepare(wrong)
    prepared(x)
    with pytest.raises(lloydmax.IntegrationError, match="after fuse_modules"):
        tq.convert(prepared, mapping=eager_mapping())


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
    assert len(notes) == 1 and "lloydmax.integrations.torchao" in notes[0], notes
    print("as it should be")
"""


@pytest.mark.parametrize("script", [ABSENT, NOTES], ids=["torch.ao gone", "one deprecation note"])
def test_import(script: str) -> None:
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "as it should be", found.stderr
