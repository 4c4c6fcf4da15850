"""Equalization: the function stays, ranges become alike, what a ReLU6 or a skip connection forbids is not done."""

from __future__ import annotations

import copy
from typing import Any

import lloydmax
import pytest
import torch
import torchvision
from batch_norms import difference, shuffled
from conftest import SmallNet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lloydmax import demo
from lloydmax.network.folding import fold_batch_norms
from torch import Tensor, nn


def equalized(model: nn.Module, data: Tensor | None, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    student = copy.deepcopy(model)
    return student, lloydmax.run_step("equalize", student, model, data, **options)


def four_bit_error(model: nn.Module, student: nn.Module, x: Tensor, levels: int = 16) -> float:
    """Relative squared error of the outputs with every weight on a uniform grid for the whole tensor."""
    rounded = copy.deepcopy(student)
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if name.endswith("weight") and parameter.dim() > 1:
                step = 2 * parameter.abs().max() / (levels - 1)
                parameter.copy_(((parameter / step - 0.5).round() + 0.5) * step)
        expected = model(x)
        return float((rounded(x) - expected).square().mean() / expected.square().mean())


def depthwise_net(activation: nn.Module, *, apart: bool) -> nn.Module:
    """Depthwise and 1 x 1 convolution, with the channels scaled apart by powers of two between them."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(12, 12, 3, padding=1, groups=12), activation, nn.Conv2d(12, 8, 1), nn.Flatten(), nn.Linear(8 * 36, 4)
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(12, 1, 3, 3).sign() * (0.8 + 0.2 * torch.rand(12, 1, 3, 3)))
        net[2].weight.copy_(torch.randn(8, 12, 1, 1).sign() * (0.8 + 0.2 * torch.rand(8, 12, 1, 1)))
        if apart:
            scale = 2.0 ** torch.arange(-6, 6)
            net[0].weight.mul_(scale.view(-1, 1, 1, 1))
            net[0].bias.mul_(scale)
            net[2].weight.div_(scale.view(1, -1, 1, 1))
    return net.eval()


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(24, 12, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["cross_layer", "rescale"])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(), nn.PReLU(12), nn.Identity()])
def test_channels_that_were_scaled_apart_come_together(method: str, activation: nn.Module, inputs: Tensor) -> None:
    model = depthwise_net(activation, apart=True)
    student, found = equalized(model, None, method=method)
    student.requires_grad_(False)
    assert found["locked"] == 0 and found["largest_scale"] > 30
    ranges = student[0].weight.abs().amax((1, 2, 3))
    assert float(ranges.max() / ranges.min()) < 1.3
    assert difference(model, student, inputs) < 1e-5
    assert four_bit_error(model, student, inputs) < 0.01 * four_bit_error(model, model, inputs)


def test_ranges_are_the_same_on_both_sides(inputs: Tensor) -> None:
    student, _ = equalized(depthwise_net(nn.ReLU(), apart=True), inputs)
    student.requires_grad_(False)
    after, before = student[0].weight.abs().amax((1, 2, 3)), student[2].weight.abs().amax((0, 2, 3))
    assert torch.allclose(after, before, rtol=0.02)
    columns = student[4].weight.abs().unflatten(1, (8, 36)).amax((0, 2))
    assert torch.allclose(student[2].weight.abs().amax((1, 2, 3)), columns, rtol=0.02)


@pytest.mark.parametrize("method", ["cross_layer", "rescale"])
def test_relu6_locks_channels_and_caps_scales(method: str, inputs: Tensor) -> None:
    model = depthwise_net(nn.ReLU6(), apart=True)
    with torch.no_grad():
        most = model[0](inputs).amax((0, 2, 3))
    locked = most >= 5.9
    assert 0 < int(locked.sum()) < 12
    student, found = equalized(model, inputs, method=method)
    assert found["locked"] == int(locked.sum())
    assert torch.equal(student[0].weight[locked], model[0].weight[locked])
    assert torch.equal(student[0].bias[locked], model[0].bias[locked])
    assert not torch.equal(student[0].weight[~locked], model[0].weight[~locked])
    with torch.no_grad():
        assert float(student[0](inputs).amax((0, 2, 3))[~locked].max()) < 5.95
    assert difference(model, student, inputs) < 1e-5
    assert found["spread_after"] < found["spread_before"]


def test_relu6_needs_data_or_is_skipped(inputs: Tensor) -> None:
    model = depthwise_net(nn.ReLU6(), apart=True)
    with pytest.raises(lloydmax.RecoveryError, match="pass data="):
        equalized(model, None)
    student, found = equalized(model, None, relu6="skip")
    assert found["chains"] == 1 and torch.equal(student[0].weight, model[0].weight)


def test_the_demo_network_on_its_silhouettes() -> None:
    model = demo.network()
    student, found = equalized(model, demo.silhouettes()[::50])
    assert found["chains"] == 6 and found["folded"] == 15 and found["spread_after"] < found["spread_before"]
    assert difference(model, student, demo.silhouettes()[7::50]) < 1e-4


@pytest.mark.parametrize("method", ["cross_layer", "rescale", "batch_norm"])
def test_mobilenet(method: str) -> None:
    torch.manual_seed(0)
    model, x = shuffled(torchvision.models.mobilenet_v2(num_classes=10)), torch.randn(4, 3, 48, 48)
    student, found = equalized(model, x, method=method)
    assert found["chains"] == {"cross_layer": 37, "rescale": 17, "batch_norm": 52}[method]
    assert found["spread_after"] < found["spread_before"]
    assert difference(model, student, x) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cross_layer", "rescale", "batch_norm"])
def test_efficientnet_on_photos(method: str) -> None:
    from ao_models import efficientnet, photos

    model, x = efficientnet(), photos(8, 224)
    student, found = equalized(model, x, method=method)
    assert difference(model, student, x) < 1e-4
    assert found["spread_after"] < found["spread_before"]


def test_batch_norms_can_take_back_the_rms(small_net: SmallNet, pictures: Tensor) -> None:
    student, _ = equalized(small_net, None, method="batch_norm", measure="rms")
    rms = student.stem.weight.square().mean((1, 2, 3)).sqrt()
    assert torch.allclose(rms, rms[:1].expand_as(rms), rtol=1e-4)
    before = small_net.stem.weight.square().mean((1, 2, 3)).sqrt()
    assert float(before.detach().max() / before.detach().min()) > 1.2
    assert torch.allclose(student(pictures), small_net(pictures), atol=1e-4)


def test_into_batch_norms_whatever_comes_after_and_statistics_stay_true(small_net: SmallNet, pictures: Tensor) -> None:
    with torch.no_grad():
        small_net.stem.weight.mul_(2.0 ** torch.arange(-4, 4).view(-1, 1, 1, 1))
    lloydmax.renormalize(small_net, pictures)
    student, found = equalized(small_net, None, method="batch_norm")
    assert found["chains"] == 2 and isinstance(student.bn1, nn.BatchNorm2d)
    ranges = student.stem.weight.abs().amax((1, 2, 3))
    assert torch.allclose(ranges, ranges.max().expand(8), rtol=1e-5)
    assert difference(small_net, student, pictures) < 1e-5
    lloydmax.renormalize(student, pictures)
    assert difference(small_net, student, pictures) < 1e-4
    with pytest.raises(lloydmax.RecoveryError, match="no layer is followed by a batch norm"):
        equalized(depthwise_net(nn.ReLU(), apart=True), None, method="batch_norm")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_dead_channels_and_tiny_ranges(dtype: torch.dtype, inputs: Tensor) -> None:
    model = depthwise_net(nn.ReLU(), apart=True)
    with torch.no_grad():
        model[0].weight[0] = 0
        model[2].weight[:, 1] = 0
        model[0].weight[2] = 1e-7
        model[2].weight[:, 3] = 3e4
    student, _ = equalized(model.to(dtype), inputs.to(dtype))
    assert all(bool(torch.isfinite(p).all()) for p in student.parameters())
    assert torch.equal(student[0].weight[0], model[0].weight[0])
    assert difference(model.float(), student.float(), inputs) < 0.05


def test_high_biases_are_absorbed(inputs: Tensor) -> None:
    model = depthwise_net(nn.ReLU(), apart=False)
    with torch.no_grad():
        model[0].bias[:6] = 40
    plain, _ = equalized(model, inputs)
    student, found = equalized(model, inputs, absorb_bias=True)
    assert found["absorbed"] == 6
    assert difference(model, student, inputs) < 1e-5
    with torch.no_grad():
        assert float(student[0](inputs).max()) < 0.75 * float(plain[0](inputs).max())


def test_high_biases_by_batch_norm_need_no_data_and_stop_at_padding() -> None:
    torch.manual_seed(0)

    def net(kernel: int) -> nn.Module:
        model = nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, kernel, padding=kernel // 2)
        )
        with torch.no_grad():
            for _ in range(60):
                model(torch.randn(32, 3, 5, 5))
            model[1].bias.fill_(5)
        return model.eval()

    model, x = net(1), torch.randn(64, 3, 5, 5)
    student, found = equalized(model, x, absorb_bias=True)
    assert found["absorbed"] == 8 and found["difference"] < 1e-5
    with torch.no_grad():
        expected = model(x)
        assert 0 < float((student(x) - expected).abs().mean() / expected.abs().mean()) < 1e-3
    assert equalized(net(3), None, absorb_bias=True)[1]["absorbed"] == 0


def test_nothing_to_equalize_says_what_was_found() -> None:
    swish = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Conv2d(4, 4, 1))
    with pytest.raises(lloydmax.RecoveryError, match="no chain to equalize in Sequential: 0 feeds SiLU 1; 2 feeds the"):
        equalized(swish, None)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    with pytest.raises(lloydmax.RecoveryError, match="starts at a depthwise convolution to equalize .* 0 feeds 2"):
        equalized(plain, None, method="rescale")
    normed = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    with pytest.raises(lloydmax.RecoveryError, match="0 feeds BatchNorm2d 1; .* fold: true folds"):
        equalized(normed, None, fold=False)


class Randomly(nn.Module):
    """A small graph put together from numbers: every operation reads one or two earlier results."""

    def __init__(self, plan: list[tuple[int, int, int]]) -> None:
        super().__init__()
        self.plan, self.steps = plan, nn.ModuleList()
        for kind, _, _ in plan:
            self.steps.append(
                [
                    lambda: nn.Conv2d(4, 4, 1),
                    lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
                    lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)),
                    nn.ReLU,
                    nn.ReLU6,
                    nn.Tanh,
                    lambda: nn.MaxPool2d(3, 1, 1),
                    nn.Identity,
                    nn.Identity,
                ][kind]()
            )
        self.head = nn.Linear(4 * 25, 3)

    def forward(self, x: Tensor) -> Tensor:
        results = [x]
        for (kind, first, second), step in zip(self.plan, self.steps, strict=True):
            one, other = results[-1 - first % len(results)], results[-1 - second % len(results)]
            results.append(one + other if kind == 7 else one * 0.5 - other if kind == 8 else step(one))
        return self.head(results[-1].flatten(1))


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0, 0, 0, 1, 2]), st.integers(1, 3)), min_size=3, max_size=9),
    st.sampled_from(["cross_layer", "rescale", "batch_norm"]),
)
def test_random_graphs_compute_the_same_afterwards(plan: list[tuple[int, int, int]], method: str) -> None:
    torch.manual_seed(len(plan))
    model = shuffled(Randomly(plan))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0 ** torch.randint(-3, 4, (len(parameter), *[1] * (parameter.dim() - 1))))
    x = 3 * torch.randn(16, 4, 5, 5)
    student = copy.deepcopy(model)
    try:
        lloydmax.run_step("equalize", student, model, x, method=method)
    except lloydmax.RecoveryError as error:
        assert "no chain" in str(error)
        fold_batch_norms(student)
    assert difference(model, student, x) < 1e-4
