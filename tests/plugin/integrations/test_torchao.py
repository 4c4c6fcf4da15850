"""torchao: quantize_ and PT2E with codebooks, alone and beside int8, on real networks."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
import torchvision
from ao_models import (
    agreement,
    difference,
    digit_cnn,
    digits,
    efficientnet,
    minilm,
    photos,
    sentences,
    settled,
)
from lloydmax.integrations.torchao import CodebookQuantizer, CodebookWeightConfig, recipe_to_config, verify
from lloydmax.student.layers import CodebookConv2d, CodebookLinear
from torch import Tensor, nn
from torchao.core.config import config_from_dict, config_to_dict
from torchao.quantization import FqnToConfig, Int8WeightOnlyConfig, quantize_
from torchao.quantization.pt2e import allow_exported_model_train_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import ComposableQuantizer
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

pytest.importorskip("torchao")


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

RESNET = {
    "quantize": [
        {"layers": ["layer1.0.conv1", "layer4.1.conv?", "fc"], "centroids": 64},
        {"layers": "layer2.0.downsample.0", "centroids": 16, "granularity": "channel"},
    ],
    "trainable": ["codebooks", "unquantized"],
}


def weighted(module: nn.Module, _: str) -> bool:
    return isinstance(module, (nn.Conv2d, nn.Linear))


def program(model: nn.Module, x: Tensor) -> Any:
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    return torch.export.export(model, (x,), dynamic_shapes=shapes, strict=True).module()


def x86(qat: bool = False) -> X86InductorQuantizer:
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config(is_qat=qat))
    return quantizer


def codes(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if "_lloydmax_codes_" in name}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return settled(torchvision.models.resnet18())


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def test_quantize_gives_codebook_layers_that_the_file_can_hold(resnet: nn.Module, x: Tensor, tmp_path: Path) -> None:
    model = copy.deepcopy(resnet)
    quantize_(model, CodebookWeightConfig(centroids=256), filter_fn=weighted)
    lloydmax.verify_plan(lloydmax.plan(resnet, {"quantize": [{"layers": "all", "centroids": 256}]}), model)
    assert type(model.layer1[0].conv1) is CodebookConv2d and type(model.fc) is CodebookLinear
    assert torch.equal(model.fc.weight, lloydmax.fit_codebook(resnet.fc.weight, 256).dequantize())
    assert difference(model(x), resnet(x)) < 0.1
    lloydmax.save(model, tmp_path / "m.safetensors")
    loaded = lloydmax.load(tmp_path / "m.safetensors", torchvision.models.resnet18())
    assert torch.equal(loaded(x), model(x))


def test_the_default_filter_takes_linear_layers(resnet: nn.Module) -> None:
    model = copy.deepcopy(resnet)
    quantize_(model, CodebookWeightConfig())
    assert set(lloydmax.codebooks(model)) == {"fc.weight"}


def test_names_mixed_with_int8(resnet: nn.Module, x: Tensor, tmp_path: Path) -> None:
    configs = {
        "layer4.1.conv1": CodebookWeightConfig(64),
        r"re:layer1\..*conv.": CodebookWeightConfig(32, "channel"),
        "bn1.weight": CodebookWeightConfig(4),
        "fc": Int8WeightOnlyConfig(),
        "layer1.1.conv2": None,
    }
    config = config_from_dict(config_to_dict(FqnToConfig(configs)))
    assert config.fqn_to_config["bn1.weight"] == CodebookWeightConfig(4)
    model = copy.deepcopy(resnet)
    quantize_(model, config, filter_fn=None)
    held = lloydmax.codebooks(model)
    names = ["bn1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer4.1.conv1"]
    assert set(held) == {f"{name}.weight" for name in names}
    assert held["layer1.0.conv1.weight"].granularity == "channel"
    assert type(model.fc.weight).__name__.startswith("Int8")
    assert difference(model(x), resnet(x)) < 0.2
    with pytest.raises(lloydmax.CheckpointError, match=r"fc\.weight.*Int8.*torch\.save"):
        lloydmax.save(model, tmp_path / "m.safetensors")
    other = copy.deepcopy(resnet)
    quantize_(other, config, filter_fn=None)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    other.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True), assign=True)
    assert torch.equal(other(x), model(x))


def test_a_recipe_as_names(resnet: nn.Module, x: Tensor) -> None:
    model = copy.deepcopy(resnet)
    recipe = {"quantize": [{"layers": ["layer4.*.conv?"], "centroids": 64}]}
    quantize_(model, recipe_to_config(recipe, resnet, default=Int8WeightOnlyConfig()), filter_fn=None)
    lloydmax.verify_plan(lloydmax.plan(resnet, recipe), model)
    assert type(model.fc.weight).__name__.startswith("Int8")
    with pytest.raises(lloydmax.RecipeError, match="layer9"):
        recipe_to_config({"quantize": [{"layers": "layer9", "centroids": 4}]}, resnet)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(lloydmax.IntegrationError, match="tied"):
        recipe_to_config({"quantize": [{"layers": "all", "centroids": 4}]}, tied)


def test_prepare_distill_convert() -> None:
    teacher, (inputs, _) = digit_cnn(), digits(500)
    student = copy.deepcopy(teacher)
    quantize_(student, CodebookWeightConfig(2, step="prepare"), weighted)
    before = difference(student(inputs), teacher(inputs))
    lloydmax.distill(student, teacher, inputs, epochs=2, lr=1e-3, batch_size=50, held_out=0.0)
    wanted = student(inputs)
    with pytest.raises(lloydmax.IntegrationError, match="step='prepare'"):
        quantize_(copy.deepcopy(teacher), CodebookWeightConfig(2, step="convert"), weighted)
    quantize_(student, CodebookWeightConfig(2, step="convert"), lambda m, _: isinstance(m, (nn.Conv2d, nn.Linear)))
    assert type(student.fc_layers[0]) is CodebookLinear
    assert torch.equal(student(inputs), wanted)
    assert difference(wanted, teacher(inputs)) < 0.8 * before


def test_minilm_linear_layers_only() -> None:
    model, tokens = minilm(), sentences()
    wanted = model(tokens).detach()
    assert min(float(wanted[i] @ wanted[i + 1]) for i in (0, 2, 4)) > 0.5 > float(wanted[0] @ wanted[2])
    quantize_(model, CodebookWeightConfig(centroids=16, granularity="channel"))
    assert len(lloydmax.codebooks(model)) == 36
    assert float((model(tokens) * wanted).sum(1).min()) > 0.96


def test_host_operations() -> None:
    model, (inputs, _) = digit_cnn(), digits(50)
    quantize_(model, CodebookWeightConfig(16), weighted)
    wanted = model(inputs).detach()
    assert torch.equal(copy.deepcopy(model)(inputs), wanted)
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert half.fc_layers[0].weight.dtype == torch.bfloat16
    assert {c.codes.dtype for c in lloydmax.codebooks(half).values()} == {torch.uint8}
    assert difference(half(inputs.bfloat16()).float(), wanted) < 0.05
    assert copy.deepcopy(model).to("meta").fc_layers[0].weight.is_meta
    other = digit_cnn()
    quantize_(other, CodebookWeightConfig(16), weighted)
    with torch.no_grad():
        other.fc_layers[0].codebooks.weight.centroids.zero_()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert file.tell() < 390_000 * 1.2
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(inputs), wanted)
    exported = torch.export.export(model, (inputs,))
    assert torch.allclose(exported.module()(inputs), wanted, atol=1e-5)
    assert sum(v.dtype == torch.uint8 for v in exported.state_dict.values()) == 5
    with torch.no_grad():
        assert torch.allclose(torch.compile(model)(inputs), wanted, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_cuda() -> None:
    model, (inputs, _) = digit_cnn(), digits(50)
    quantize_(model, CodebookWeightConfig(16), weighted)
    wanted = model(inputs)
    assert torch.allclose(model.to("cuda")(inputs.to("cuda")).cpu(), wanted, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"step": "finish"}, lloydmax.IntegrationError),
        ({"centroids": 0}, lloydmax.FitError),
        ({"granularity": "row"}, lloydmax.FitError),
        ({"quantizer": "kmean"}, lloydmax.FitError),
        ({"options": {"nonsense": 1}}, lloydmax.FitError),
    ],
)
def test_a_bad_configuration_is_an_error(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        CodebookWeightConfig(**options)


def test_a_module_without_the_parameter_is_an_error(resnet: nn.Module) -> None:
    with pytest.raises(lloydmax.IntegrationError, match="ReLU"):
        quantize_(copy.deepcopy(resnet), CodebookWeightConfig(), filter_fn=lambda m, _: isinstance(m, nn.ReLU))


def test_pt2e_alone(resnet: nn.Module, x: Tensor) -> None:
    prepared = prepare_pt2e(program(resnet, x), CodebookQuantizer(RESNET, resnet))
    prepared(x)
    converted = convert_pt2e(prepared)
    verify(converted, RESNET, resnet)
    assert {t.dtype for t in codes(converted).values()} == {torch.uint8} and len(codes(converted)) == 5
    assert not {"layer1.0.conv1.weight", "fc.weight"} & set(converted.state_dict())
    wanted = converted(x)
    assert difference(wanted, resnet(x)) < 0.12
    assert difference(converted(x[:2]), resnet(x[:2])) < 0.12
    file = io.BytesIO()
    torch.export.save(torch.export.export(converted, (x,)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    assert len(codes(loaded)) == 5
    assert torch.equal(loaded(x), wanted)


def test_pt2e_beside_x86_int8(resnet: nn.Module, x: Tensor) -> None:
    quantizer = ComposableQuantizer([CodebookQuantizer(RESNET, resnet), x86()])
    prepared = prepare_pt2e(program(resnet, x), quantizer)
    prepared(x)
    converted = convert_pt2e(prepared)
    verify(converted, RESNET, resnet)
    kinds = [t.dtype for t in converted.state_dict().values() if t.dim() > 1]
    assert kinds.count(torch.uint8) == 5 and kinds.count(torch.int8) == 21 - 5 and torch.float32 not in kinds[6:7]
    assert difference(converted(x), resnet(x)) < 0.2


@pytest.mark.slow
def test_pt2e_qat_with_int8(resnet: nn.Module, x: Tensor) -> None:
    teacher = copy.deepcopy(resnet)
    quantizer = ComposableQuantizer([CodebookQuantizer(RESNET, resnet), x86(qat=True)])
    prepared = prepare_qat_pt2e(program(copy.deepcopy(resnet).train(), x), quantizer)
    allow_exported_model_train_eval(prepared)
    lloydmax.distill(prepared, teacher, x, steps=2, batch_size=2, lr=1e-5, held_out=0.0)
    trained = {m.parameter: m.codebook() for m in prepared.modules() if isinstance(getattr(m, "parameter", None), str)}
    assert len(trained) == 5
    with torch.no_grad():
        wanted = prepared(x)
    converted = convert_pt2e(prepared)
    verify(converted, RESNET, resnet)
    for name, codebook in trained.items():
        attribute = name.replace(".", "__") + "0"
        assert torch.equal(codebook.codes, converted.get_buffer(f"_lloydmax_codes_{attribute}"))
        assert torch.equal(codebook.centroids, converted.get_buffer(f"_lloydmax_centroids_{attribute}"))
    assert difference(converted(x), wanted) < 0.1


def test_pt2e_qat_converts_to_the_same_outputs() -> None:
    teacher, (inputs, _) = digit_cnn(), digits(250)
    recipe = {"quantize": [{"layers": "all", "centroids": 2}], "trainable": ["codebooks", "unquantized"]}
    prepared = prepare_qat_pt2e(program(copy.deepcopy(teacher), inputs), CodebookQuantizer(recipe, teacher))
    allow_exported_model_train_eval(prepared)
    with torch.no_grad():
        before = difference(prepared(inputs), teacher(inputs))
    lloydmax.distill(prepared, teacher, inputs, epochs=3, batch_size=50, lr=1e-3, held_out=0.0)
    with torch.no_grad():
        wanted = prepared(inputs)
    converted = convert_pt2e(prepared)
    verify(converted, recipe, teacher)
    assert torch.allclose(converted(inputs), wanted, atol=1e-5)
    assert difference(wanted, teacher(inputs)) < 0.9 * before


@pytest.mark.slow
def test_pt2e_efficientnet_whose_convolutions_are_subclasses() -> None:
    model, x = efficientnet(), photos(16, 96)
    recipe = {"quantize": [{"layers": "all", "centroids": 256}]}
    prepared = prepare_pt2e(program(model, x), CodebookQuantizer(recipe, model))
    prepared(x)
    converted = convert_pt2e(prepared)
    verify(converted, recipe, model)
    assert len(codes(converted)) == 50
    assert agreement(converted, model, x) >= 0.8


def test_pt2e_lowered_by_compile_gives_the_same_outputs() -> None:
    model, (inputs, _) = digit_cnn(), digits(50)
    recipe = {"quantize": [{"layers": "fc_layers.0", "centroids": 16}]}
    quantizer = ComposableQuantizer([CodebookQuantizer(recipe, model), x86()])
    prepared = prepare_pt2e(program(model, inputs), quantizer)
    prepared(inputs)
    converted = convert_pt2e(prepared)
    verify(converted, recipe, model)
    with torch.no_grad():
        assert torch.allclose(torch.compile(converted)(inputs), converted(inputs), atol=1e-2)
    assert agreement(converted, model, inputs) == 1.0


def test_pt2e_tied_weights_share_one_codebook() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    model[2].weight = model[0].weight
    x = torch.randn(3, 6)
    recipe = {"quantize": [{"layers": "all", "centroids": 4}]}
    prepared = prepare_pt2e(program(model, x), CodebookQuantizer(recipe, model))
    prepared(x)
    converted = convert_pt2e(prepared)
    verify(converted, recipe, model)
    assert len(codes(converted)) == 1


def test_pt2e_silent_failures_are_errors(resnet: nn.Module, x: Tensor) -> None:
    with pytest.raises(lloydmax.IntegrationError, match=r"put CodebookQuantizer first"):
        prepare_pt2e(program(resnet, x), ComposableQuantizer([x86(), CodebookQuantizer(RESNET, resnet)]))
    unused = digit_cnn()
    unused.extra = nn.Linear(3, 3)
    recipe = {"quantize": [{"layers": "extra", "centroids": 4}]}
    with pytest.raises(lloydmax.IntegrationError, match=r"extra\.weight is not used"):
        prepare_pt2e(program(digit_cnn(), digits(50)[0]), CodebookQuantizer(recipe, unused))
    with pytest.raises(lloydmax.PlanMismatchError, match="fc_layers.0.weight has no codebook"):
        model = digit_cnn()
        verify(program(model, digits(50)[0]), {"quantize": [{"layers": "fc_layers.0", "centroids": 4}]}, model)


ABSENT = """
    import sys
    sys.modules["torchao"] = None
    import lloydmax
    try:
        import lloydmax.integrations.torchao
    except lloydmax.IntegrationError as error:
        print("as it should be" if 'pip install "lloydmax[torchao]"' in str(error) else error)
"""


def test_absent_torchao_names_the_extra() -> None:
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(ABSENT)], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "as it should be", found.stderr
