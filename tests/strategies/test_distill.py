"""Distillation: targets, losses, options, kept teacher outputs, best state, broken runs."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import RecoveryError, run_step
from lloydmax.data import unlabelled
from lloydmax.extend import Agreement, Comparison, Recovery
from lloydmax.teacher import kept
from lloydmax_strategies.training.loop import Training, TrainingOptions
from torch import Tensor, nn

OPTIONS: dict[str, Any] = {"epochs": 20, "batch_size": 32, "lr": 0.02, "precision": "float32", "held_out": 0.1}


class Small(nn.Module):
    """A linear teacher, in every form of output."""

    def __init__(self, form: str = "tensor") -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(6, 4), form

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        forms = {
            "tensor": y,
            "tuple": (y, None, 3 * y),
            "dict": {"scores": y, "count": torch.tensor(1)},
            "hugging face": OrderedDict(loss=y.sum(), logits=y),
            "sequence": y[:, None].expand(-1, 3, -1),
        }
        return forms[self.form]


def pair(form: str = "tensor") -> tuple[Small, Small, Tensor]:
    torch.manual_seed(0)
    return Small(form), Small(form), torch.randn(320, 6)


def gap(student: nn.Module, teacher: nn.Module) -> float:
    with torch.no_grad():
        return float((student.layer.weight - teacher.layer.weight).norm())


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "hugging face", "sequence"])
def test_the_student_learns_the_teachers_outputs(form: str) -> None:
    student, teacher, x = pair(form)
    before, kept = gap(student, teacher), copy.deepcopy(teacher.state_dict())
    found = lloydmax.distill(student, teacher, x, **OPTIONS)
    assert gap(student, teacher) < 0.1 * before
    assert all(torch.equal(kept[k], v) for k, v in teacher.state_dict().items())
    assert found["agreement"] > 0.9 and found["loss"] < 0.1


@pytest.mark.parametrize("loss", ["mse", "l1", "kl", "cosine"])
def test_every_loss_goes_down(loss: str) -> None:
    student, teacher, x = pair()
    before = Comparison(teacher, unlabelled(x, teacher)).measure(student)
    found = lloydmax.distill(student, teacher, x, **OPTIONS, loss=loss, temperature=2.0 if loss == "kl" else 1.0)
    assert found["agreement"] > max(0.9, before.top1)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_every_optimizer_and_schedule(optimizer: str) -> None:
    student, teacher, x = pair()
    found = lloydmax.distill(
        student,
        teacher,
        x,
        **OPTIONS | {"lr": 0.1},
        optimizer=optimizer,
        schedule="constant",
        clip=5.0,
        weight_decay=1e-4,
    )
    assert found["agreement"] > 0.9


def test_an_output_is_picked_by_key_or_position() -> None:
    student, teacher, x = pair("dict")
    lloydmax.distill(student, teacher, x, **OPTIONS, output="scores")
    with pytest.raises(RecoveryError, match="no tensor 'logit'.*scores"):
        lloydmax.distill(student, teacher, x, output="logit")
    student, teacher, x = pair("tuple")
    assert lloydmax.distill(student, teacher, x, **OPTIONS, output=2)["agreement"] > 0.9


def counting(teacher: nn.Module) -> list[int]:
    calls: list[int] = []
    teacher.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    return calls


def test_teacher_outputs_are_computed_once() -> None:
    student, teacher, x = pair()
    calls = counting(teacher)
    lloydmax.distill(student, teacher, x, **OPTIONS)
    assert calls[:10] == [3, 2, *[4] * 8] and sum(calls[10:]) == len(x), (
        "after the trial, training and held-out inputs once each"
    )


def test_augmentation_shows_both_the_same_view(small_net: SmallNet, pictures: Tensor) -> None:
    student, seen = copy.deepcopy(small_net), {}
    for name, model in (("student", student), ("teacher", small_net)):
        model.register_forward_hook(lambda _, args, __, name=name: seen.setdefault(name, []).append(args[0].clone()))
    lloydmax.distill(
        student, small_net, pictures, epochs=2, batch_size=24, augment=["flip", "crop"], mixup=0.4, held_out=0.0
    )
    views = {name: [view for view in inputs if len(view) == 24] for name, inputs in seen.items()}
    assert len(views["student"]) == len(views["teacher"]) == 8
    assert all(torch.equal(a, b) for a, b in zip(views["student"], views["teacher"], strict=True))
    assert not any(bool((view[0] == pictures).all((1, 2, 3)).any()) for view in views["student"])


def test_teacher_outputs_spill_to_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    student, teacher, x = pair()
    plain = copy.deepcopy(student)
    expected = lloydmax.distill(plain, teacher, x, **OPTIONS)
    monkeypatch.setattr(kept, "MEMORY_LIMIT", 100)
    files: list[int] = []
    room = kept.TeacherOutputs._room

    def counted(self: Any, *args: Any) -> Tensor:
        tensor = room(self, *args)
        files.append(len(list(tmp_path.rglob("output*"))))
        return tensor

    monkeypatch.setattr(kept.TeacherOutputs, "_room", counted)
    assert lloydmax.distill(student, teacher, x, workdir=tmp_path, **OPTIONS) == expected
    assert max(files) >= 1 and torch.equal(student.layer.weight, plain.layer.weight)
    assert not list(tmp_path.iterdir()), "the files are removed at the end"


def test_the_best_state_on_held_out_inputs_is_kept() -> None:
    student, teacher, x = pair()
    student.load_state_dict(teacher.state_dict())
    found = lloydmax.distill(student, teacher, x, **OPTIONS | {"lr": 10.0, "epochs": 2, "schedule": "constant"})
    assert found["agreement"] == 1.0 and gap(student, teacher) == 0.0


def is_better(found: Agreement, best: Agreement, loss: str) -> bool:
    student, teacher, x = pair()
    training = Training("distill", TrainingOptions(loss=loss), Recovery(student, teacher, unlabelled(x, teacher)))
    training.best = best
    return training.is_better(found)


def test_what_is_trained_tells_which_state_is_better() -> None:
    one, other = Agreement(0.90, 0.010, 2.0, 100), Agreement(0.91, 0.020, 1.0, 100)
    assert is_better(one, other, "kl") and not is_better(other, one, "kl")
    assert is_better(other, one, "mse") and not is_better(one, other, "mse")
    values = Agreement(None, None, 2.0, 100), Agreement(None, None, 1.0, 100)
    assert is_better(values[1], values[0], "kl") and not is_better(*values, "kl")


def test_any_number_is_better_than_none() -> None:
    broken, whole = Agreement(0.0, math.nan, math.nan, 100), Agreement(0.1, 3.0, 9.0, 100)
    for loss in ("kl", "mse"):
        assert is_better(whole, broken, loss) and not is_better(broken, whole, loss)


def test_a_shift_of_regression_outputs_is_seen() -> None:
    teacher = nn.Linear(16, 4)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.bias += 1.0
    options = OPTIONS | {"epochs": 3, "loss": "mse"}
    lloydmax.distill(student, teacher, torch.randn(320, 16, generator=torch.Generator().manual_seed(0)), **options)
    assert float((student.bias - teacher.bias).abs().max()) < 0.9


def test_patience_stops_early() -> None:
    student, teacher, x = pair()
    student.load_state_dict(teacher.state_dict())
    found = lloydmax.distill(student, teacher, x, **OPTIONS, patience=2)
    assert found["steps"] == 2 * (288 // 32) and "no better held-out state" in found["stopped"]


def test_a_loss_that_is_not_finite_ends_the_run_with_the_best_state() -> None:
    student, teacher, x = pair()
    before = copy.deepcopy(student.state_dict())
    with pytest.warns(UserWarning, match="the loss became .* at step"):
        found = lloydmax.distill(student, teacher, x, **OPTIONS | {"held_out": 0.0, "lr": 1e30})
    assert found["loss"] is None and "restored" in found["stopped"]
    assert all(torch.equal(before[k], v) for k, v in student.state_dict().items())


def test_only_what_requires_a_gradient_learns(small_net: SmallNet, pictures: Tensor) -> None:
    student = copy.deepcopy(small_net)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name == "head.2.bias")
    with torch.no_grad():
        student.head[2].bias.add_(1)
    state = copy.deepcopy(student.state_dict())
    lloydmax.distill(student, small_net, pictures, **OPTIONS, patience=None)
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {"head.2.bias"}
    with pytest.raises(RecoveryError, match="nothing to train"):
        lloydmax.distill(student.requires_grad_(False), small_net, pictures)


@pytest.mark.parametrize(("mode", "moves"), [("train", True), ("eval", False)])
def test_batch_norm_modes(small_net: SmallNet, pictures: Tensor, mode: str, moves: bool) -> None:
    student = copy.deepcopy(small_net)
    with torch.no_grad():
        student.stem.weight.add_(0.3)
    mean = student.bn1.running_mean.clone()
    lloydmax.distill(student, small_net, pictures, **OPTIONS, batch_norm=mode)
    assert torch.equal(student.bn1.running_mean, mean) != moves
    assert not student.bn1.training


def test_wrong_options_are_told() -> None:
    student, teacher, x = pair()
    with pytest.raises(RecoveryError, match="did you mean 'epochs'"):
        lloydmax.distill(student, teacher, x, epoch=3)
    with pytest.raises(RecoveryError, match="lr"):
        lloydmax.distill(student, teacher, x, lr=-1)


def test_a_loader_with_random_views_recomputes_the_targets() -> None:
    class Noisy(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.randn(6), index % 4

    student, teacher, _ = pair()
    calls, before = counting(teacher), gap(student, teacher)
    loader = torch.utils.data.DataLoader(Noisy(), batch_size=8, shuffle=True)
    lloydmax.distill(student, teacher, loader, **OPTIONS | {"epochs": 30, "batch_size": 16})
    assert sum(calls) > 10 * 64 and gap(student, teacher) < 0.1 * before


def test_steps_and_samples_bound_the_work() -> None:
    student, teacher, x = pair()
    found = lloydmax.distill(student, teacher, x, steps=7, batch_size=16, samples=64)
    assert found["steps"] == 7 and found["samples"] + found["held_out_samples"] == 64


def test_bfloat16_trains_in_autocast(small_net: SmallNet, pictures: Tensor) -> None:
    student = copy.deepcopy(small_net)
    with torch.no_grad():
        student.head[2].weight.mul_(0.5)
    found = lloydmax.distill(student, small_net, pictures, **OPTIONS | {"precision": "bfloat16"})
    assert found["precision"] == "bfloat16" and student.head[2].weight.dtype == torch.float32
    with torch.no_grad():
        assert (student(pictures) - small_net(pictures)).square().mean() < 0.1 * small_net(pictures).var()


def test_blocks_are_mimicked_on_both_domains() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    reference, foreign = torch.randn(32, 6), torch.randn(32, 6) + 1
    found = {}
    for features in (0.0, 0.5):
        student = copy.deepcopy(model)
        with torch.no_grad():
            student[0].weight.add_(0.3)
        options = {"epochs": 1, "batch_size": 16, "layer": "0", "features": features}
        found[features] = run_step("align", student, model, foreign, reference_data=reference, **options)
    assert found[0.5]["features"] > 0 and "features" not in found[0.0]
    assert found[0.5]["loss"] != found[0.0]["loss"]
