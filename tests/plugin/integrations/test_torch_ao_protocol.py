"""What torch.ao.quantization's own calls do to our fake quantizers, whoever makes them."""

from __future__ import annotations

import copy
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lloydmax
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torch.ao.quantization.quantize_fx")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch.ao.quantization as tq
    from lloydmax.integrations.torch_ao import (
        CodebookFakeQuantize,
        ThresholdFakeQuantize,
        backend_config,
        codebook_qconfig,
        quantized_codebook,
        threshold_qconfig,
        threshold_qconfig_mapping,
    )
    from torch.ao.quantization.qconfig import qconfig_equals
    from torch.ao.quantization.quantize_fx import convert_fx, convert_to_reference_fx, prepare_fx, prepare_qat_fx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*(quant_min|deprecated):UserWarning")

STAY_FLOAT = "codebook layers would silently stay float"


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@contextmanager
def warned(times: int) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    assert sum(STAY_FLOAT in str(warning.message) for warning in seen) == times


def narrowed(net: nn.Module, mapping: Any, x: Tensor, prepare: Any = prepare_qat_fx) -> Any:
    fake = prepare(copy.deepcopy(net), mapping, (x,)).eval()
    fake(x)
    for module in fake.modules():
        if isinstance(module, ThresholdFakeQuantize):
            module.disable_observer()
            module.width.data.fill_(0.6)
    return fake


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_converting_clips_what_is_quantized_and_no_float_weight(net: nn.Module, x: Tensor, granularity: str) -> None:
    fake = narrowed(net, threshold_qconfig_mapping(4, "symmetric", granularity), x)
    weights = [fake.get_submodule("0").weight, fake.get_submodule("3").weight]
    before = [weight.detach().clone() for weight in weights]
    converted = convert_fx(fake)
    assert all(map(torch.equal, weights, before))
    for name in "03":
        codebook = quantized_codebook(converted.get_submodule(name))
        assert codebook is not None and codebook.k <= 15


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_reference_layers_clip_their_weights_wherever_they_go(net: nn.Module, x: Tensor, granularity: str) -> None:
    fake = narrowed(net, threshold_qconfig_mapping(4, "symmetric", granularity), x)
    head = fake.get_submodule("3")
    wanted = head.weight_fake_quant(head.weight).detach()
    layer = convert_to_reference_fx(fake).get_submodule("3")
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = copy.deepcopy(layer)
    loaded.weight_scale = torch.zeros_like(layer.weight_scale)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for copied in (layer, copy.deepcopy(layer).to("cpu"), loaded):
        assert torch.allclose(copied.get_weight(), wanted) and type(copied.get_weight()) is Tensor


def test_scales_and_zero_points_are_numbers_for_people(net: nn.Module, x: Tensor) -> None:
    fake = narrowed(net, threshold_qconfig_mapping(4, activation_bits=4), x)
    for threshold in (m for m in fake.modules() if isinstance(m, ThresholdFakeQuantize)):
        scale, zero = threshold.calculate_qparams()
        assert float(scale) > 0 and int(zero) == zero.item()
        assert type(scale * 2) is Tensor and type(zero + 1) is Tensor
        assert threshold.dtype in (torch.qint8, torch.quint8)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("convert", [convert_fx, convert_to_reference_fx])
def test_low_bit_activations_are_not_converted(x: Tensor, weighted: bool, convert: Any) -> None:
    parts = [nn.Flatten(), nn.Linear(108, 5), nn.ReLU()] if weighted else [nn.MaxPool2d(2)]
    activation = ThresholdFakeQuantize.with_args(bits=4, weights=False)
    mapping = tq.QConfigMapping().set_global(tq.QConfig(activation=activation, weight=tq.default_weight_observer))
    fake = prepare_fx(nn.Sequential(*parts).eval(), mapping, (x,))
    fake(x)
    with pytest.raises(lloydmax.IntegrationError, match="4-bit ones would give other outputs"):
        convert(fake)


def test_low_bit_activations_are_not_converted_in_eager_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(tq.QuantStub(), nn.Linear(6, 8), tq.DeQuantStub())
    model.qconfig = threshold_qconfig(8, activation_bits=4)
    fake = tq.prepare_qat(model.train()).eval()
    fake(torch.randn(50, 6))
    with pytest.raises(lloydmax.IntegrationError, match="4-bit ones would give other outputs"):
        tq.convert(fake)


def codebook_mapping() -> Any:
    mapping = tq.QConfigMapping().set_module_name("0", codebook_qconfig(8, "channel"))
    return mapping.set_module_name("3", codebook_qconfig(4))


@pytest.mark.parametrize("prepare", [prepare_fx, prepare_qat_fx])
def test_each_preparation_without_the_backend_config_warns_once(net: nn.Module, x: Tensor, prepare: Any) -> None:
    net.train(prepare is prepare_qat_fx)
    mapping = codebook_mapping()
    with warned(0):
        first = prepare(copy.deepcopy(net), mapping, (x,), backend_config=backend_config())
    for _ in range(2):
        with warned(1):
            second = prepare(copy.deepcopy(net), copy.deepcopy(mapping), (x,))
    with warned(0):
        third = prepare(copy.deepcopy(net), copy.deepcopy(mapping), (x,), backend_config=backend_config())
        for model in (first, second, third):
            model.eval()(x)
            convert_fx(copy.deepcopy(model))
            convert_fx(model, qconfig_mapping=mapping, backend_config=backend_config())
        CodebookFakeQuantize.with_args(centroids=4)()


def test_eager_mode_never_warns(x: Tensor) -> None:
    model = nn.Sequential(tq.QuantStub(), nn.Linear(6, 8), tq.DeQuantStub())
    with warned(1):
        prepare_fx(nn.Sequential(nn.Linear(6, 8)).eval(), codebook_mapping(), (torch.ones(1, 6),))
    with warned(0):
        model.qconfig = codebook_qconfig(4, activation=tq.default_observer)
        copy.deepcopy(tq.prepare_qat(copy.deepcopy(model).train()))
        copy.deepcopy(tq.prepare(model.eval()))


def test_constructors_of_copies_and_layers_stay_equal() -> None:
    """Upstream compares them, and refuses to convert with a mapping of other ones."""
    ours, others = codebook_qconfig(4), codebook_qconfig(5)
    mapping = copy.deepcopy(tq.QConfigMapping().set_global(ours))
    assert qconfig_equals(ours, mapping.global_qconfig)
    assert not qconfig_equals(others, mapping.global_qconfig)


def test_threads_do_not_see_each_others_preparations() -> None:
    """Tracing itself is not safe in threads, so this takes the steps of ``prepare_fx`` one by one."""
    mapping, steps = codebook_mapping(), threading.Barrier(2, timeout=60)
    counts: dict[bool, int] = {}

    def prepare(extended: bool) -> None:
        copied = copy.deepcopy(mapping)
        steps.wait()
        if extended:
            _ = [entry.dtype_configs for entry in backend_config().configs]
        steps.wait()
        constructors = [qconfig.weight for qconfig in copied.module_name_qconfigs.values()]
        for turn in (True, False):
            if turn is extended:
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always")
                    for constructor in constructors:
                        constructor()
                counts[extended] = len(seen)
            steps.wait()

    threads = [threading.Thread(target=prepare, args=(extended,)) for extended in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {True: 0, False: 1}
