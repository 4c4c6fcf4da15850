"""Re-normalization: equal to one forward pass of all samples, however it is done."""

from __future__ import annotations

import copy

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import demo
from lloydmax.student.attachment import attach
from torch import Tensor, nn


def one_pass(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The definition: batch-statistics mode, one batch of everything, no moving average."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model(x)
    return {name: value for name, value in model.state_dict().items() if "running" in name}


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if "running" in name}


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return max(float(((found[n] - e).abs() / (e.abs() + 1e-3)).max()) for n, e in expected.items())


@pytest.fixture
def student(small_net: SmallNet) -> SmallNet:
    with torch.no_grad():
        for parameter in (small_net.stem.weight, small_net.padded.weight):
            parameter.mul_(1.7).add_(0.05)
    return small_net


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({}, "one batch"),
        ({"memory": 1e-6, "batch_size": 7}, "layer by layer"),
        ({"memory": 1e-6, "batch_size": 96}, "layer"),
    ],
)
def test_exact_mode_equals_one_pass_of_everything(student: SmallNet, pictures: Tensor, options: dict, how: str) -> None:
    expected, others = one_pass(student, pictures), copy.deepcopy(student.state_dict())
    found = lloydmax.renormalize(student, pictures, samples=96, **options)
    assert how in found["how"] and found["samples"] == 96 and found["layers"] == 2
    assert largest_difference(statistics(student), expected) < 1e-5
    assert all(torch.equal(others[n], v) for n, v in student.state_dict().items() if "running" not in n)


def test_fast_mode_is_close_and_better_than_nothing(student: SmallNet, pictures: Tensor) -> None:
    expected = one_pass(student, pictures)
    before = largest_difference(statistics(student), expected)
    lloydmax.renormalize(student, pictures, mode="fast", batch_size=16)
    assert largest_difference(statistics(student), expected) < 0.2 * before


def test_pooling_counts_the_spread_between_batches() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1))
    x = torch.cat([torch.full((50, 1), -1.0), torch.full((50, 1), 1.0)])
    lloydmax.renormalize(model, [x[:50], x[50:]], mode="fast", batch_size=50)
    assert float(model[0].running_var) == pytest.approx(100 / 99, rel=1e-4)


def test_the_order_of_the_data_does_not_matter(student: SmallNet) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 3, 12, 12, generator=generator) + torch.linspace(-3, 3, 600)[:, None, None, None]
    expected = one_pass(student, x)
    lloydmax.renormalize(student, x, samples=300)
    assert abs(float(student.bn1.running_mean[0] - expected["bn1.running_mean"][0])) < 0.25 * float(
        expected["bn1.running_var"][0].sqrt()
    ), "a sorted set must be sampled across its length"


def test_a_norm_used_twice_and_one_never_used() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.unused = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.norm(x) + 3)

    model, x = Twice().eval(), torch.randn(64, 4)
    found = lloydmax.renormalize(model, x)
    assert found["layers"] == 1 and torch.equal(model.unused.running_mean, torch.zeros(4))
    assert torch.isfinite(model(x)).all()


def test_batch_norm_keeps_the_unbiased_variance() -> None:
    model, x = nn.Sequential(nn.BatchNorm1d(3)), torch.randn(10, 3)
    lloydmax.renormalize(model, x)
    assert torch.allclose(model[0].running_var, x.var(0), rtol=1e-5)


def test_reference_data_is_used_where_asked(student: SmallNet, pictures: Tensor) -> None:
    recipe = {
        "quantize": [{"layers": "all", "centroids": 16}],
        "recover": [{"step": "renormalize", "source": "reference_data"}],
    }
    result = lloydmax.compress(student, recipe, data=pictures, reference_data=pictures + 5, progress=False)
    assert result.model.bn1.running_mean.abs().max() > student.bn1.running_mean.abs().max() + 1
    with pytest.raises(lloydmax.RecoveryError, match="reference_data"):
        lloydmax.compress(student, recipe, data=pictures, progress=False)


@pytest.mark.parametrize("options", [{}, {"memory": 1e-6, "batch_size": 20}, {"mode": "fast", "batch_size": 48}])
def test_relative_statistics_leave_an_unchanged_model_alone(
    small_net: SmallNet, pictures: Tensor, options: dict
) -> None:
    student = copy.deepcopy(small_net)
    lloydmax.renormalize(student, 3 * pictures + 1, teacher=small_net, relative=True, **options)
    assert largest_difference(statistics(student), statistics(small_net)) < 1e-4, "whatever the domain"


def test_relative_batches_are_compared_with_themselves(student: SmallNet, pictures: Tensor) -> None:
    """Batches that differ from each other do not disturb what one pass of small batches finds."""
    teacher = copy.deepcopy(student)
    lloydmax.renormalize(teacher, pictures)
    for name in ("stem.weight", "padded.weight"):
        attach(student, name, lloydmax.fit_codebook(student.get_parameter(name), 6))
    student.load_state_dict({n: v for n, v in teacher.state_dict().items() if "running" in n}, strict=False)
    exact, fast = copy.deepcopy(student), copy.deepcopy(student)
    lloydmax.renormalize(exact, pictures, teacher, relative=True)
    found = lloydmax.renormalize(fast, pictures, teacher, relative=True, mode="fast", batch_size=8)
    moved = largest_difference(statistics(student), statistics(exact))
    assert largest_difference(statistics(fast), statistics(exact)) < 0.1 * moved
    assert 0 < found["moved"] < 1


def test_relative_statistics_survive_another_domain(student: SmallNet, pictures: Tensor) -> None:
    torch.manual_seed(0)
    teacher = SmallNet().eval()
    teacher.load_state_dict(student.state_dict())
    lloydmax.renormalize(teacher, pictures)
    clustered = copy.deepcopy(teacher)
    for name in ("stem.weight", "padded.weight"):
        attach(clustered, name, lloydmax.fit_codebook(clustered.get_parameter(name), 3))
    foreign = 0.6 * pictures.roll(1, dims=1) + 0.4

    def error(**options: object) -> float:
        model = copy.deepcopy(clustered)
        lloydmax.renormalize(model, foreign, **options)
        with torch.no_grad():
            return float((model(pictures) - teacher(pictures)).square().mean())

    assert error(teacher=teacher, relative=True) < 0.5 * error()


def test_inputs_that_hardly_excite_a_network_do_no_harm() -> None:
    """Pictures that were normalized twice are nearly constant."""
    teacher, pictures = demo.network(), demo.silhouettes()[:200]
    twice = (pictures / 255 - 0.286) / 0.353
    assert float(twice.std()) < 0.02
    recipe = {
        "quantize": [{"layers": "all", "centroids": 8}],
        "recover": [{"step": "renormalize", "relative": True}],
    }
    result = lloydmax.compress(teacher, recipe, twice, progress=False)
    assert result.report.kl.after < result.report.kl.before
    with torch.no_grad():
        same = result.model(pictures).argmax(1) == teacher(pictures).argmax(1)
    assert float(same.float().mean()) > 0.7


def test_relative_statistics_need_the_original(student: SmallNet, pictures: Tensor) -> None:
    with pytest.raises(lloydmax.RecoveryError, match="teacher="):
        lloydmax.renormalize(student, pictures, relative=True)


def test_a_model_without_batch_norm_is_refused(pictures: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 5)).eval()
    with pytest.raises(lloydmax.RecoveryError, match="no batch norm with running statistics.*correct_bias"):
        lloydmax.renormalize(net, pictures)
