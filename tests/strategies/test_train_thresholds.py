"""The recovery step ``train_thresholds``: what it trains, what it keeps, what it refuses."""

from __future__ import annotations

import copy
import math
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax import hookimpl
from lloydmax.hooks import registry
from lloydmax.student.thresholds import TrainedThreshold
from lloydmax_strategies.train_thresholds import TrainThresholds
from torch import Tensor, nn


class Threshold(TrainedThreshold):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("fake_quant_enabled", torch.tensor([1], dtype=torch.uint8))
        self.register_buffer("observer_enabled", torch.tensor([1], dtype=torch.uint8))


class Quantized(nn.Module):
    """A linear layer with quantized weights and inputs."""

    def __init__(self, linear: nn.Linear, bits: int, scheme: str = "symmetric", granularity: str = "tensor") -> None:
        super().__init__()
        self.linear = linear
        self.of_weight = Threshold(bits, scheme, granularity)
        self.of_input = Threshold(8, "asymmetric", weights=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.of_input(x), self.of_weight(self.linear.weight), self.linear.bias)


@pytest.fixture
def teacher() -> Any:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 6)).eval()
    with torch.no_grad():
        net[0].bias[0] = -50.0
        for layer in (net[0], net[2]):
            layer.weight[0, 0] = 2 * layer.weight.abs().max()
    return net


@pytest.fixture
def inputs() -> Tensor:
    """Input 0 is 0, and so is hidden unit 0: both layers have one far weight that does not matter."""
    x = torch.randn(600, 12, generator=torch.Generator().manual_seed(1))
    x[:, 0] = 0
    return x


def student_of(teacher: Any, bits: int = 4, **kwargs: Any) -> Any:
    twin = copy.deepcopy(teacher)
    return nn.Sequential(Quantized(twin[0], bits, **kwargs), nn.ReLU(), Quantized(twin[2], bits, **kwargs)).eval()


def train(student: nn.Module, teacher: Any, inputs: Tensor, **options: Any) -> dict[str, Any]:
    return lloydmax.run_step("train_thresholds", student, teacher, inputs, **options)


@pytest.mark.parametrize("loss", ["rmse", "smooth_l1", "mse"])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_one_far_weight_is_cut_off(teacher: Any, inputs: Tensor, loss: str, scheme: str) -> None:
    student = student_of(teacher, scheme=scheme)
    before = copy.deepcopy(student.state_dict())
    figures = train(student, teacher, inputs, loss=loss, epochs=12, batch_size=50, held_out=0.2, lr=0.02)
    assert figures["mse"] < 0.5 * figures["mse_before"], figures
    assert figures["agreement"] >= figures["agreement_before"]
    assert figures["thresholds"] == 4 and figures["steps"] == 12 * 9 and figures["samples"] == 480
    assert figures["held_out_samples"] == 120
    for name, tensor in student.state_dict().items():
        if "linear" in name:
            assert torch.equal(tensor, before[name]), "weights are frozen"
    assert not any(bool(m.observer_enabled[0]) for m in student.modules() if isinstance(m, Threshold))


def test_gradients_modes_and_other_observers_are_restored(teacher: Any, inputs: Tensor) -> None:
    student = student_of(teacher)
    student.other = Threshold()
    student.other.fix(torch.tensor([0.1]), torch.tensor([0]))
    student.other.observer_enabled[0] = 1
    student[0].linear.weight.requires_grad_(False)
    student[0].of_weight.width.requires_grad_(False)
    wanted = {name: p.requires_grad for name, p in student.named_parameters()}
    student.train()
    train(student, teacher, inputs, steps=3, held_out=0.0)
    assert {name: p.requires_grad for name, p in student.named_parameters()} == wanted
    assert student.training and bool(student.other.observer_enabled[0])
    assert all(p.grad is None for p in student.parameters())
    assert float(student[0].of_weight.width) != 1.0, "a threshold trains whatever its flag was"


def test_calibration_observes_the_float_network_anew(teacher: Any, inputs: Tensor) -> None:
    student = student_of(teacher, bits=2)
    student(100 * inputs)
    seen = float(student[0].of_input.max_val)
    train(student, teacher, inputs, steps=1, calibration=len(inputs), lr=1e-9)
    assert float(student[0].of_input.max_val) == float(inputs.max()) < seen
    hidden = torch.relu(teacher[0](inputs))
    assert float(student[2].of_input.max_val) == pytest.approx(hidden.max().item()), "not that of 2-bit weights"
    student(100 * inputs)
    kept = student_of(teacher)
    with torch.no_grad():
        kept(100 * inputs)
    train(kept, teacher, inputs, steps=1, calibration=0)
    assert float(kept[0].of_input.max_val) == seen


def test_the_same_seed_gives_the_same_bytes(teacher: Any, inputs: Tensor) -> None:
    found = []
    for seed in (0, 0, 1):
        student = student_of(teacher, granularity="channel")
        train(student, teacher, inputs, steps=8, batch_size=50, seed=seed)
        found.append(torch.cat([m.width.detach() for m in student.modules() if isinstance(m, Threshold)]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_worse_state_is_not_kept(teacher: Any, inputs: Tensor) -> None:
    student = student_of(teacher, bits=8)
    figures = train(student, teacher, inputs, epochs=2, batch_size=50, lr=10.0, schedule="constant", held_out=0.2)
    assert figures["mse"] <= figures["mse_before"]
    assert figures["mse"] == pytest.approx(float((student(inputs) - teacher(inputs)).square().mean()), rel=0.5)


class _Broken(nn.Module):
    """Gives NaN from the third training batch on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        self.calls += torch.is_grad_enabled()
        return found * (math.nan if self.calls > 2 and torch.is_grad_enabled() else 1.0)


def test_a_broken_loss_restores_the_last_good_state(teacher: Any, inputs: Tensor) -> None:
    student = _Broken(student_of(teacher))
    with pytest.warns(UserWarning, match="train_thresholds: the loss became nan at step 3"):
        figures = train(student, teacher, inputs, batch_size=50)
    assert figures["loss"] is None and figures["steps"] == 3 and "restored" in figures["stopped"]
    assert {float(m.width) for m in student.modules() if isinstance(m, Threshold)} == {1.0}


def test_projection_lets_every_factor_go_on_learning(teacher: Any, inputs: Tensor) -> None:
    students = [student_of(teacher), student_of(teacher)]
    for student, project in zip(students, (True, False), strict=True):
        train(student, teacher, inputs, epochs=6, batch_size=50, lr=0.2, project=project, held_out=0.0)
    widths = [[float(m.width) for m in s.modules() if isinstance(m, Threshold)] for s in students]
    assert all(0.5 <= width <= 1.0 for width in widths[0])
    assert any(not 0.5 <= width <= 1.0 for width in widths[1])


class _Rates:
    def __init__(self) -> None:
        self.rates: list[float] = []

    @hookimpl
    def lloydmax_step(self, step: str, metrics: dict[str, float]) -> None:
        if step == "train_thresholds" and "loss" in metrics:
            self.rates.append(metrics["lr"])


def test_the_published_schedule(teacher: Any, inputs: Tensor) -> None:
    options = TrainThresholds.Options.model_validate({"preset": "published", "batch_size": 20})
    assert (options.lr, options.schedule, options.restart, options.project) == (1e-3, "restarts", 400, False)
    assert options.batch_size == 20, "what is given wins"
    heard = _Rates()
    student = student_of(teacher)
    train(student, teacher, inputs, preset="published", restart=5, steps=12, batch_size=50, listeners=[heard])
    for step, rate in enumerate(heard.rates):
        wave = abs(math.cos(math.pi * (step % 5) / 20))
        assert rate == pytest.approx(1e-3 * math.exp(-1e-4 * step) * wave + 1e-7)
    assert len(heard.rates) == 12


def test_gradients_scaled_as_in_lsq(teacher: Any, inputs: Tensor) -> None:
    student = student_of(teacher)
    figures = train(student, teacher, inputs, optimizer="sgd", lr=2.0, epochs=12, batch_size=50, held_out=0.2)
    assert figures["mse"] < 0.5 * figures["mse_before"], figures
    assert [m.values for m in student.modules() if isinstance(m, Threshold)] == [288, 12, 144, 24]


@pytest.mark.parametrize("made", ["none", "fixed"])
def test_a_student_without_thresholds_is_an_error(teacher: Any, inputs: Tensor, made: str) -> None:
    student, message = copy.deepcopy(teacher), "no trained thresholds: add an `activations:` section"
    if made == "fixed":
        student, message = student_of(teacher), "every threshold of the student is fixed"
        for threshold in student.modules():
            if isinstance(threshold, Threshold):
                threshold.fix(torch.tensor([0.1]), torch.tensor([0]))
    with pytest.raises(lloydmax.RecoveryError, match=message):
        train(student, teacher, inputs)


def test_it_needs_data(teacher: Any) -> None:
    with pytest.raises(lloydmax.RecoveryError, match="unlabelled inputs"):
        train(student_of(teacher), teacher, None)  # type: ignore[arg-type]


def test_options_are_in_the_schema() -> None:
    assert registry.find("step", "train_thresholds").options is TrainThresholds.Options
    with pytest.raises(lloydmax.RecoveryError, match="preset"):
        registry.make("step", "train_thresholds", {"preset": "paper"}, lloydmax.RecoveryError)
    with pytest.raises(lloydmax.RecoveryError, match="did you mean 'restart'"):
        registry.make("step", "train_thresholds", {"restarts": 3}, lloydmax.RecoveryError)
