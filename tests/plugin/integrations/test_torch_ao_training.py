"""torch.ao.quantization, FX: codebooks that train beside int8 layers, by the user and by distill."""

from __future__ import annotations

import copy
import warnings

import lloydmax
import pytest
import torch
import torchvision
from ao_layers import DIGITS, RESNET, held, int8_layers, same, trained
from ao_models import agreement, difference, digit_cnn, digits, settled
from torch import Tensor, nn

pytest.importorskip("torch.ao.quantization.quantize_fx")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch.ao.quantization as tq
    from lloydmax.integrations.torch_ao import apply_recipe, backend_config, verify
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quant_min:UserWarning")


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return settled(torchvision.models.resnet18())


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))


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
