"""What the training loop is made of: features of blocks, learning rates, precision."""

from __future__ import annotations

import copy
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax.extend import Batch
from lloydmax_strategies.training.features import Features, blocks
from lloydmax_strategies.training.precision import depthwise_in_float32
from lloydmax_strategies.training.rates import learning_rates
from torch import Tensor, nn
from torchvision.models import resnet18, vgg11, vit_b_16


def test_blocks_are_what_stands_in_lists() -> None:
    with torch.device("meta"):
        found = {model.__name__: blocks(model()) for model in (resnet18, vgg11, vit_b_16)}
    assert found["resnet18"] == [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert found["vgg11"][:2] == ["features.0", "features.3"]
    assert found["vit_b_16"] == [f"encoder.layers.encoder_layer_{n}" for n in range(12)] + ["heads.head"]


def test_features_measure_the_distance_of_blocks_and_go_away(pictures: Tensor) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    student = copy.deepcopy(teacher)
    features = Features(student, teacher)
    teacher(pictures)
    features.start(Batch())
    for model in (teacher, student):
        model(pictures)
    assert features.distance().item() == 0
    with torch.no_grad():
        student[2].weight.mul_(0)
        student[2].bias.mul_(0)
    features.start(Batch())
    for model in (teacher, student):
        model(pictures)
    assert abs(features.distance().item() - 0.5) < 1e-6
    features.close()
    assert not any(module._forward_hooks for module in (*student.modules(), *teacher.modules()))


def test_features_join_the_loss(small_net: SmallNet, pictures: Tensor) -> None:
    student = copy.deepcopy(small_net)
    with torch.no_grad():
        student.head[0].weight.mul_(0.7)
    found = lloydmax.distill(student, small_net, pictures, features=1.0, epochs=3, batch_size=32)
    assert found["teacher_runs"] == "in every step" and found["features"] > 0
    assert not any(module._forward_hooks for module in student.modules())


def test_relative_learning_rates_follow_the_scale(small_net: SmallNet) -> None:
    student = copy.deepcopy(small_net)
    lloydmax.student.attachment.attach(student, "stem.weight", lloydmax.fit_codebook(small_net.stem.weight, 4))
    parameters = list(student.parameters())
    rates = {id(g["params"][0]): g["lr"] for g in learning_rates(student, parameters, 0.1, True)}
    rms = float(student.stem.weight.square().mean().sqrt())
    centroids = student.stem.parametrizations.weight.original
    assert rates[id(centroids)] == pytest.approx(0.1 * rms, rel=1e-4)
    assert rates[id(student.bn1.weight)] == pytest.approx(0.1)
    assert rates[id(student.bn1.bias)] == pytest.approx(1e-4)
    (group,) = learning_rates(student, parameters, 0.1, False)
    assert group["lr"] == 0.1 and len(group["params"]) == len(parameters)


def test_depthwise_layers_stay_float32_under_autocast(small_net: SmallNet, pictures: Tensor) -> None:
    seen: list[torch.dtype] = []
    plain = nn.Conv2d._conv_forward

    def spy(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.groups > 1:
            seen.append(x.dtype)
        return plain(self, x, weight, bias)

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        patch.setattr(nn.Conv2d, "_conv_forward", spy)
        with depthwise_in_float32(torch.device("cpu"), small_net):
            out = small_net(pictures)
    assert seen == [torch.float32] and "forward" not in small_net.depthwise.__dict__
    assert torch.allclose(out.float(), small_net(pictures), atol=0.05)


def test_a_float16_model_is_trained_without_bfloat16(
    small_net: SmallNet, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lloydmax_strategies.training.precision._native_bfloat16", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    net, data = small_net.half(), pictures.half()
    settings: dict[str, Any] = {"epochs": 1, "held_out": 0.0, "optimizer": "sgd", "lr": 1e-3}
    assert lloydmax.distill(copy.deepcopy(net), net, data, **settings)["precision"] == "float32"
    with pytest.raises(lloydmax.RecoveryError, match=r"distill: precision: bfloat16 .* float16 model"):
        lloydmax.distill(copy.deepcopy(net), net, data, **settings, precision="bfloat16")


def test_training_in_bfloat16_reaches_depthwise_weights(small_net: SmallNet, pictures: Tensor) -> None:
    student = copy.deepcopy(small_net)
    before = student.depthwise.weight.clone()
    found = lloydmax.distill(student, small_net, pictures, precision="bfloat16", epochs=1, held_out=0.0)
    assert found["precision"] == "bfloat16" and not torch.equal(before, student.depthwise.weight)
