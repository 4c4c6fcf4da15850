"""Trained thresholds in torch.ao.quantization: int8 kernels, users' pipelines, recipes, mixed with codebooks."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import lloydmax
import pytest
import torch
from ao_models import difference
from torch import Tensor, nn

pytest.importorskip("torch.ao.quantization.quantize_fx")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch.ao.quantization as tq
    from lloydmax.integrations.torch_ao import (
        ThresholdFakeQuantize,
        apply_recipe,
        backend_config,
        quantized_codebook,
        threshold_qconfig,
        threshold_qconfig_mapping,
        train_thresholds,
        verify,
    )
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*(quant_min|deprecated):UserWarning")

SCHEMES = [(scheme, granularity) for scheme in ("symmetric", "asymmetric") for granularity in ("tensor", "channel")]


class Net(nn.Module):
    """A convolution, a grouped one, a shortcut; batch norms not folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.grouped = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8), nn.ReLU6())
        self.pointwise = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.pointwise(self.grouped(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    model = Net().train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(32, 3, 10, 10))
        model.head.weight.mul_(10)
    return model.eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(160, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def prepared(model: nn.Module, x: Tensor, mapping: Any, qat: bool = True) -> Any:
    found = (prepare_qat_fx if qat else prepare_fx)(copy.deepcopy(model), mapping, (x[:1],)).eval()
    with torch.no_grad():
        found(x)
    return found


def narrow(model: nn.Module, width: float = 0.8, shift: float = 0.05) -> None:
    """As if trained: factors of another value, observers off."""
    for threshold in thresholds(model):
        threshold.disable_observer()
        with torch.no_grad():
            threshold.width.fill_(width)
            if threshold.shift is not None:
                threshold.shift.fill_(shift)


def thresholds(model: nn.Module) -> list[ThresholdFakeQuantize]:
    return [m for m in model.modules() if isinstance(m, ThresholdFakeQuantize)]


def int8_layers(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if quantized_codebook(m) is not None}


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "depthwise": (nn.Conv2d(16, 16, 3, padding=1, groups=16), (2, 16, 7, 7)),
    "conv bn relu": (nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), (2, 4, 6, 6)),
    "linear relu": (nn.Sequential(nn.Linear(6, 5), nn.ReLU()), (9, 6)),
    "linear bn": (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), (9, 6)),
}


@pytest.mark.parametrize(
    ("kind", "scheme", "granularity"),
    [(kind, *rest) for kind in LAYERS for rest in SCHEMES if (kind, rest[0]) != ("depthwise", "asymmetric")],
)
def test_a_converted_layer_gives_the_trained_outputs(kind: str, scheme: Any, granularity: str) -> None:
    bits = 8 if (scheme == "symmetric") == (granularity == "tensor") else 4
    torch.manual_seed(0)
    layer, shape = copy.deepcopy(LAYERS[kind][0]), LAYERS[kind][1]
    x = torch.randn(shape)
    model = nn.Sequential(layer).train()
    model(x)
    fake = prepared(model.eval(), x, threshold_qconfig_mapping(bits, scheme, granularity))
    narrow(fake)
    with torch.no_grad():
        wanted = fake(x)
        converted = convert_fx(fake)
        found = converted(x)
    (layer,) = int8_layers(converted).values()
    steps = (found - wanted).abs() / layer.scale
    assert float(steps.max()) < 1.01 and float((steps > 0.01).float().mean()) < 0.05
    codebook = quantized_codebook(layer)
    assert codebook is not None and torch.equal(codebook.dequantize(), layer.weight().dequantize())
    assert codebook.k <= 2**bits and codebook.granularity == granularity


@pytest.mark.parametrize(("scheme", "granularity"), SCHEMES)
def test_a_network_with_unfolded_batch_norms(net: nn.Module, x: Tensor, scheme: Any, granularity: str) -> None:
    fake = prepared(net, x, threshold_qconfig_mapping(8, scheme, granularity, activation_scheme=scheme))
    narrow(fake, width=0.95, shift=0.01)
    with torch.no_grad():
        wanted = fake(x)
    assert difference(wanted, net(x)) < 0.25
    converted = convert_fx(fake)
    assert set(int8_layers(converted)) == {"stem.0", "grouped.0", "pointwise.0", "head"}
    assert difference(converted(x), wanted) < 0.03


def test_four_bit_weights_are_clipped_on_the_way_to_int8(net: nn.Module, x: Tensor) -> None:
    fake = prepared(net, x, threshold_qconfig_mapping(4))
    narrow(fake, width=0.6)
    converted = convert_fx(fake)
    for layer in int8_layers(converted).values():
        integers = layer.weight().int_repr()
        assert int(integers.min()) >= -7 and int(integers.max()) == 7


@pytest.mark.parametrize("qat", [True, False])
def test_converting_leaves_the_float_model_alone(net: nn.Module, x: Tensor, qat: bool) -> None:
    model = copy.deepcopy(net)
    before = copy.deepcopy(model.state_dict())
    fake = (prepare_qat_fx if qat else prepare_fx)(model, threshold_qconfig_mapping(3, "asymmetric"), (x[:1],)).eval()
    fake(x)
    narrow(fake, width=0.6)
    converted = convert_fx(fake)
    for layer in int8_layers(converted).values():
        integers = layer.weight().int_repr()
        assert int(integers.min()) >= -4 and int(integers.max()) <= 3
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_activations_of_fewer_bits_train_but_do_not_convert(net: nn.Module, x: Tensor) -> None:
    fake = prepared(net, x, threshold_qconfig_mapping(8, activation_bits=4))
    assert difference(fake(x), net(x)) > 0.02
    with pytest.raises(lloydmax.IntegrationError, match="4-bit ones would give other outputs"):
        convert_fx(fake)


def test_onednn_refuses_asymmetric_weights_with_advice(net: nn.Module, x: Tensor) -> None:
    if "onednn" not in torch.backends.quantized.supported_engines:
        pytest.skip("onednn")
    fake = prepared(net, x, threshold_qconfig_mapping(8, "asymmetric"))
    previous = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    try:
        with pytest.raises(lloydmax.IntegrationError, match="scheme='symmetric'"):
            convert_fx(fake)
        symmetric = prepared(net, x, threshold_qconfig_mapping(8, "symmetric", "channel"))
        wanted = symmetric(x)
        assert difference(convert_fx(symmetric)(x), wanted) < 0.03
    finally:
        torch.backends.quantized.engine = previous


def test_transposed_convolutions_stay_float_and_are_refused_by_hand() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2)).eval(), torch.randn(2, 4, 5, 5)
    converted = convert_fx(prepared(model, x, threshold_qconfig_mapping()))
    assert torch.equal(converted(x), model(x))
    by_hand = prepared(model, x, tq.QConfigMapping().set_global(threshold_qconfig(axis=1)), qat=False)
    if torch.backends.quantized.engine in ("x86", "onednn"):
        with pytest.raises(lloydmax.IntegrationError, match="transposed convolution with 4 input and 6 output"):
            convert_fx(by_hand)
    recipe = {"quantize": [{"layers": "all", "quantizer": "uniform"}], "activations": {}}
    with pytest.raises(lloydmax.IntegrationError, match=r"not the weight of ConvTranspose2d"):
        apply_recipe(threshold_qconfig_mapping(), recipe, model)


def test_a_cpu_without_vnni_is_told(net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    fake = prepared(net, x, threshold_qconfig_mapping(7))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*VNNI.*")
        convert_fx(fake)
    with pytest.warns(UserWarning, match="lacks VNNI"):
        convert_fx(prepared(net, x, threshold_qconfig_mapping(8)))


@pytest.mark.parametrize("qat", [True, False])
def test_in_a_pipeline_that_the_user_has(net: nn.Module, qat: bool) -> None:
    """The mapping is another one, one call more; inputs with a far value, which min-max thresholds suffer from."""
    x = torch.randn(160, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    x[::40, 0, 5, 5] = 60.0
    mapping = threshold_qconfig_mapping(8, "symmetric", "channel")
    fake = (prepare_qat_fx if qat else prepare_fx)(copy.deepcopy(net), mapping, (x[:1],))
    state = {name: t.clone() for name, t in fake.state_dict().items() if "running" in name or name.endswith("weight")}
    figures = train_thresholds(fake, net, x, steps=40, batch_size=40, lr=3e-2, held_out=0.25)
    assert figures["mse"] < 0.7 * figures["mse_before"], figures
    assert figures["thresholds"] == len([m for m in thresholds(fake) if not m.weights]) + (8 + 8 + 8 + 5) * qat
    assert all(torch.equal(t, fake.state_dict()[name]) for name, t in state.items()), "only thresholds train"
    assert not fake.training and not any(bool(m.observer_enabled[0]) for m in thresholds(fake))
    clean = x[1:40]
    wanted = fake(clean)
    converted = convert_fx(fake)
    assert len(int8_layers(converted)) == 4
    assert difference(converted(clean), wanted) < (0.03 if qat else 0.05)


def test_restored_parameters_convert_to_the_same_integers(net: nn.Module, x: Tensor) -> None:
    mapping = threshold_qconfig_mapping(4, "asymmetric", "channel")
    fake = prepared(net, x, mapping)
    narrow(fake, 0.7)
    fresh = prepare_qat_fx(copy.deepcopy(net), mapping, (x[:1],)).eval()
    for ours, theirs in zip(thresholds(fake), thresholds(fresh), strict=True):
        theirs.fix(*ours.calculate_qparams())
    converted, again = convert_fx(fake), convert_fx(fresh)
    assert torch.equal(converted(x), again(x))


def test_a_prepared_state_reloads(net: nn.Module, x: Tensor) -> None:
    mapping = threshold_qconfig_mapping(8, "asymmetric", "channel")
    fake = prepared(net, x, mapping)
    narrow(fake)
    file = io.BytesIO()
    torch.save(fake.state_dict(), file)
    file.seek(0)
    fresh = prepare_qat_fx(copy.deepcopy(net), mapping, (x[:1],)).eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(convert_fx(fresh)(x), convert_fx(fake)(x))


MIXED: dict[str, Any] = {
    "quantize": [
        {"layers": ["stem.0", "grouped.0"], "quantizer": "uniform", "bits": 4, "granularity": "channel"},
        {"layers": ["pointwise.0", "head"], "centroids": 16},
    ],
    "activations": {"bits": 8, "scheme": "asymmetric"},
    "trainable": ["codebooks"],
}


@pytest.mark.parametrize("rest", ["nothing", "int8"])
def test_codebook_and_int8_layers_in_one_model(net: nn.Module, x: Tensor, rest: str) -> None:
    mapping = tq.QConfigMapping() if rest == "nothing" else threshold_qconfig_mapping()
    plan = apply_recipe(mapping, MIXED, net)
    fake = prepare_qat_fx(copy.deepcopy(net), mapping, (x[:1],), backend_config=backend_config())
    figures = train_thresholds(fake, net, x, steps=4, batch_size=40)
    assert figures["thresholds"] == 16 + sum(not m.weights for m in thresholds(fake))
    with torch.no_grad():
        wanted = fake(x)
    converted = convert_fx(fake, backend_config=backend_config())
    for recipe in (plan, MIXED):
        verify(converted, recipe)
    assert set(int8_layers(converted)) == {"stem.0", "grouped.0"}
    assert set(lloydmax.codebooks(converted)) == {"pointwise.0.weight", "head.weight"}
    assert difference(converted(x), wanted) < 0.03


def test_the_mappings_own_activations_serve_without_the_section(net: nn.Module, x: Tensor) -> None:
    recipe = {"quantize": MIXED["quantize"][:1]}
    mapping = tq.get_default_qat_qconfig_mapping("x86")
    apply_recipe(mapping, recipe, net)
    converted = convert_fx(prepared(net, x, mapping))
    verify(converted, recipe)
    assert len(int8_layers(converted)) == 4 and difference(converted(x), net(x)) < 0.3
    with pytest.raises(lloydmax.IntegrationError, match=r"stem\.0\.weight: .*activations"):
        apply_recipe(tq.QConfigMapping(), recipe, net)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"layers": "stem.0", "granularity": "group:2"}, "not granularity 'group:2'"),
        ({"layers": "stem.0", "threshold": "mse"}, "train_thresholds"),
        ({"layers": "head", "parameter": "bias"}, "not the bias of Linear"),
    ],
)
def test_what_int8_layers_cannot_be_is_refused_by_name(net: nn.Module, rule: dict[str, Any], message: str) -> None:
    recipe = {"quantize": [{"quantizer": "uniform", **rule}], "activations": {}}
    with pytest.raises(lloydmax.IntegrationError, match=message):
        apply_recipe(threshold_qconfig_mapping(), recipe, net)


@pytest.mark.parametrize(
    ("made", "planned", "message"),
    [
        ((8, "symmetric", "channel"), {"bits": 4, "granularity": "channel"}, r"integers from -127 to 127, planned 4"),
        ((4, "symmetric", "channel"), {"bits": 4}, "one scale per channel, planned per tensor"),
        ((8, "asymmetric", "tensor"), {}, "zero point, planned symmetric|integers from -128"),
        (None, {}, r"stem\.0\.weight is not int8: its layer is Conv"),
    ],
)
def test_verify_catches_other_integers(net: nn.Module, x: Tensor, made: Any, planned: Any, message: str) -> None:
    recipe = {"quantize": [{"layers": "stem.0", "quantizer": "uniform", **planned}], "activations": {}}
    mapping = tq.QConfigMapping() if made is None else threshold_qconfig_mapping(*made)
    converted = convert_fx(prepared(net, x, mapping))
    with pytest.raises(lloydmax.PlanMismatchError, match=message):
        verify(converted, recipe, original=net)


def test_eager_mode(net: nn.Module, x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(tq.QuantStub(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), tq.DeQuantStub())
    x = torch.randn(50, 6)
    model.qconfig = threshold_qconfig(4, "symmetric", "channel")
    fake = tq.prepare_qat(copy.deepcopy(model).train()).eval()
    fake(x)
    narrow(fake, 0.7)
    wanted = fake(x)
    converted = tq.convert(fake)
    assert difference(converted(x), wanted) < 0.02
    assert int(converted[1].weight().int_repr().abs().max()) == 7


def test_operations_with_known_ranges_keep_upstreams_observers() -> None:
    mapping = threshold_qconfig_mapping()
    sigmoid = mapping.object_type_qconfigs[torch.nn.Sigmoid]
    assert sigmoid is not None and sigmoid.activation().scale == pytest.approx(1 / 256)
    norm = mapping.object_type_qconfigs[torch.nn.LayerNorm]
    assert norm is not None and isinstance(norm.activation(), ThresholdFakeQuantize)
    assert norm.weight().dtype == torch.float
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    assert difference(convert_fx(prepared(model, x, mapping))(x), model(x)) < 0.1


def test_equal_arguments_give_equal_activations() -> None:
    """Upstream fuses neighbours only where their constructors compare equal."""
    assert threshold_qconfig(4).activation is threshold_qconfig(8).activation
    with pytest.raises(lloydmax.FitError, match="bits is 12"):
        threshold_qconfig(12)
    with pytest.raises(lloydmax.FitError, match="bits is 1"):
        threshold_qconfig(activation_bits=1)


def test_asymmetric_depthwise_weights_which_the_kernels_get_wrong_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU()).eval()
    x = torch.randn(8, 16, 6, 6)
    fake = prepared(net, x, threshold_qconfig_mapping(scheme="asymmetric", granularity="channel"))
    with pytest.raises(lloydmax.IntegrationError, match=r"depthwise.*wrongly.*scheme='symmetric'"):
        convert_fx(fake)
