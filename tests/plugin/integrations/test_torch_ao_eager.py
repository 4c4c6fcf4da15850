"""torch.ao.quantization, eager: codebook layers beside int8 layers."""

from __future__ import annotations

import copy
import warnings

import lloydmax
import pytest
import torch
import torchvision
from ao_layers import RESNET, held, int8_layers, same, trained
from ao_models import difference, settled
from torch import Tensor, nn

pytest.importorskip("torch.ao.quantization.quantize_fx")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch.ao.quantization as tq
    from lloydmax.integrations.torch_ao import apply_recipe, eager_mapping, verify

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quant_min:UserWarning")


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))


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
    with pytest.raises(lloydmax.IntegrationError, match="eager_mapping"):
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


@pytest.mark.parametrize("training", [False, True])
def test_a_forgotten_mapping_is_told_what_to_write(training: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    model.qconfig = tq.get_default_qat_qconfig("x86") if training else tq.get_default_qconfig("x86")
    apply_recipe(None, {"quantize": [{"layers": "3", "centroids": 4}]}, model)
    prepared = tq.prepare_qat(model.train()) if training else tq.prepare(model.eval())
    prepared(torch.randn(2, 3, 8, 8))
    with pytest.raises(lloydmax.IntegrationError, match=r"mapping=lloydmax\.integrations\.torch_ao\.eager_mapping\(\)"):
        tq.convert(prepared.eval())
    verify(tq.convert(prepared, mapping=eager_mapping()), {"quantize": [{"layers": "3", "centroids": 4}]}, model)


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
