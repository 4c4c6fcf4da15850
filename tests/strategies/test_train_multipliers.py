"""Trained multipliers: on torch.ao's own fake quantizers the student comes closer, within a quarter of every weight."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax.network.folding import fold_batch_norms
from torch import Tensor, nn


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(400, 3, 12, 12, generator=torch.Generator().manual_seed(2))


def plain_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    ).eval()


def prepared(model: nn.Module, x: Tensor) -> nn.Module:
    """By torch.ao for quantization-aware training, with its defaults, and calibrated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import get_default_qat_qconfig_mapping
        from torch.ao.quantization.quantize_fx import prepare_qat_fx

        student = prepare_qat_fx(copy.deepcopy(model).train(), get_default_qat_qconfig_mapping("x86"), (x[:2],)).eval()
    with torch.no_grad():
        student(x[:100])
    return student


def perturbed(model: nn.Module, x: Tensor) -> nn.Module:
    """A prepared copy whose weights and biases are the model's times random factors in [0.85, 1.15]."""
    student = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "bn" not in name:
                parameter.mul_(0.85 + 0.3 * torch.rand(parameter.shape, generator=generator))
    return prepared(student, x)


def error(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((student(x) - teacher(x)).square().mean())


@pytest.mark.parametrize("fold", [True, False])
def test_the_student_comes_closer_within_a_quarter(small_net: SmallNet, inputs: Tensor, fold: bool) -> None:
    if fold:
        fold_batch_norms(small_net)
    student = perturbed(small_net, inputs)
    before = copy.deepcopy(student)
    found: dict[str, Any] = lloydmax.run_step(
        "train_multipliers", student, small_net, inputs, steps=60, batch_size=50, lr=1e-2
    )
    assert found["steps"] == 60 and found["stopped"] == "all steps done" and found["mse"] < found["mse_before"]
    fresh = torch.randn(100, 3, 12, 12, generator=torch.Generator().manual_seed(4))
    assert error(student, small_net, fresh) < 0.3 * error(before, small_net, fresh)
    moved = 0
    old = dict(before.named_parameters())
    for name, parameter in student.named_parameters():
        ratio = (parameter / old[name]).detach()
        if "bn" in name:
            assert torch.equal(parameter, old[name])
        else:
            assert float(ratio[old[name] != 0].min()) > 0.7499 and float(ratio[old[name] != 0].max()) < 1.2501
            moved += int((ratio != 1).sum())
    assert moved > 0.5 * found["multipliers"] and 0.01 < found["moved"] < 0.25


def test_everything_else_stays(small_net: SmallNet, inputs: Tensor) -> None:
    student = prepared(small_net, inputs)
    student.stem.weight.requires_grad_(False)
    before = copy.deepcopy(student)
    lloydmax.run_step("train_multipliers", student, small_net, inputs[:100], steps=2, batch_size=20, range=0.1)
    kinds = [{n: type(m) for n, m in model.named_modules() if n} for model in (student, before)]
    assert kinds[0] == kinds[1]
    kept = {n: p.requires_grad for n, p in before.named_parameters()}
    assert {n: p.requires_grad for n, p in student.named_parameters()} == kept
    assert all(p.grad is None for p in student.parameters())
    state = before.state_dict()
    observed = {n: v for n, v in student.state_dict().items() if "scale" in n or "zero_point" in n}
    assert observed and all(v.shape == state[n].shape for n, v in observed.items())
    observers = [m for m in student.modules() if hasattr(m, "observer_enabled")]
    assert observers and not any(int(m.observer_enabled[0]) for m in observers)


def test_the_int8_model_is_as_close_as_the_trained_one(inputs: Tensor) -> None:
    from torch.ao.quantization.quantize_fx import convert_fx

    model = plain_net()
    student = perturbed(model, inputs)
    damaged = error(student, model, inputs[:50])
    lloydmax.run_step("train_multipliers", student, model, inputs, steps=40, batch_size=50, lr=1e-2)
    trained = error(student, model, inputs[:50])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = convert_fx(copy.deepcopy(student))
    assert trained < 0.6 * damaged
    assert abs(error(converted, model, inputs[:50]) - trained) < 0.1 * damaged


def test_the_same_seed_gives_the_same_weights(small_net: SmallNet, inputs: Tensor) -> None:
    start = perturbed(small_net, inputs)
    states = []
    for seed in (0, 0, 1):
        student = copy.deepcopy(start)
        lloydmax.run_step("train_multipliers", student, small_net, inputs[:100], steps=3, batch_size=20, seed=seed)
        states.append(student.stem.weight.detach())
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_a_loss_that_is_not_finite_restores_the_best_state(small_net: SmallNet, inputs: Tensor) -> None:
    student = perturbed(small_net, inputs)
    before = copy.deepcopy(student)
    bad = inputs[:60].clone()
    bad[:] = 1e38
    with pytest.warns(UserWarning, match=r"train_multipliers: the loss became (nan|inf) at step 1"):
        found = lloydmax.run_step(
            "train_multipliers", student, _Overflowing(small_net), bad, steps=5, batch_size=20, held_out=0
        )
    assert found["loss"] is None
    assert all(torch.equal(p, q) for p, q in zip(student.parameters(), before.parameters(), strict=True))


class _Overflowing(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + torch.inf


def test_without_int8_layers(small_net: SmallNet, inputs: Tensor) -> None:
    with pytest.raises(lloydmax.RecoveryError, match="needs int8 layers, and the student has none"):
        lloydmax.run_step("train_multipliers", copy.deepcopy(small_net), small_net, inputs)
    with pytest.raises(lloydmax.RecoveryError, match="pass data="):
        lloydmax.run_step("train_multipliers", copy.deepcopy(small_net), small_net, None)
    with pytest.raises(lloydmax.RecoveryError, match="range"):
        lloydmax.run_step("train_multipliers", copy.deepcopy(small_net), small_net, inputs, range=1.5)
