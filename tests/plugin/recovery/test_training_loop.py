"""The training loop as a third party uses it: a step in twenty lines, with all that the loop does for it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from lloydmax import hookimpl
from lloydmax.extend import LoopOptions, Recovery, TrainingLoop, register, unregister
from torch import Tensor, nn


class Nudge:
    """What the docstring of the loop shows, as a whole step."""

    class Options(LoopOptions):
        lr: float = 1e-2

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        return Nudging(self.options, recovery).run()


class Nudging(TrainingLoop):
    def __init__(self, options: Nudge.Options, recovery: Recovery) -> None:
        super().__init__("nudge", options, recovery)
        self.optimizer = torch.optim.Adam(self.parameters, lr=options.lr)

    def loss(self, found: list[Tensor], wanted: list[Tensor]) -> Tensor:
        return F.smooth_l1_loss(found[0], wanted[0])


class Plugin:
    @hookimpl
    def lloydmax_recovery_steps(self) -> dict[str, type]:
        return {"nudge": Nudge}


class Heard:
    """Steps that were told, and an error at one of them."""

    def __init__(self, at: int | None = None, error: type[BaseException] = RuntimeError) -> None:
        self.at, self.error, self.told = at, error, list[tuple[int, int, dict[str, float]]]()

    @hookimpl
    def lloydmax_step(self, step: str, index: int, total: int, metrics: dict[str, float]) -> None:
        if step == "nudge" and "loss" in metrics:
            self.told.append((index, total, metrics))
            if len(self.told) == self.at:
                raise self.error


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    plugin = Plugin()
    register(plugin)
    yield
    unregister(plugin)


@pytest.fixture
def student(small_net: SmallNet) -> nn.Module:
    student = copy.deepcopy(small_net)
    with torch.no_grad():
        student.head[2].weight.mul_(0.5)
    return student


def nudge(student: nn.Module, teacher: nn.Module, data: Any, **options: Any) -> dict[str, Any]:
    return lloydmax.run_step("nudge", student, teacher, data, **{"batch_size": 16, "held_out": 0.25, **options})


def test_twenty_lines_are_a_step(student: nn.Module, small_net: SmallNet, pictures: Tensor) -> None:
    heard = Heard()
    found = nudge(student, small_net, pictures, epochs=6, listeners=[heard])
    assert found["mse"] < 0.3 * found["mse_before"] and found["agreement"] >= found["agreement_before"]
    assert (found["steps"], found["samples"], found["held_out_samples"]) == (24, 72, 24)
    assert [(index, total) for index, total, _ in heard.told] == [(n, 24) for n in range(1, 25)]
    assert found["loss"] == heard.told[-1][2]["loss"] < found["loss_before"] == heard.told[0][2]["loss"]
    assert found["stopped"] == "all steps done"


def test_the_same_seed_gives_the_same_student(student: nn.Module, small_net: SmallNet, pictures: Tensor) -> None:
    twins = [copy.deepcopy(student) for _ in range(3)]
    for twin, seed in zip(twins, (1, 1, 2), strict=True):
        nudge(twin, small_net, pictures, epochs=2, seed=seed)
    weights = [twin.head[2].weight for twin in twins]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_best_state_stays(student: nn.Module, small_net: SmallNet, pictures: Tensor) -> None:
    found = nudge(student, small_net, pictures, epochs=3, lr=30.0)
    assert found["mse"] == found["mse_before"]
    assert torch.equal(student.head[2].weight, 0.5 * small_net.head[2].weight)


def test_patience(student: nn.Module, small_net: SmallNet, pictures: Tensor) -> None:
    found = nudge(student, small_net, pictures, epochs=9, lr=30.0, patience=2)
    assert found["steps"] == 2 * 4 and found["stopped"] == "no better held-out state for 2 epochs"


def test_a_broken_loss_restores_the_best_state(student: nn.Module, small_net: SmallNet, pictures: Tensor) -> None:
    with pytest.warns(UserWarning, match="nudge: the loss became (nan|inf) at step .*; try a smaller lr"):
        found = nudge(student, small_net, pictures, epochs=2, held_out=0.0, lr=1e30)
    assert found["loss"] is None and "restored" in found["stopped"]
    assert torch.equal(student.head[2].weight, 0.5 * small_net.head[2].weight)


def test_ctrl_c_restores_the_best_state(student: nn.Module, small_net: SmallNet, pictures: Tensor) -> None:
    with pytest.raises(KeyboardInterrupt):
        nudge(student, small_net, pictures, epochs=2, listeners=[Heard(2, KeyboardInterrupt)])
    assert torch.equal(student.head[2].weight, 0.5 * small_net.head[2].weight)


def test_a_killed_step_goes_on(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    recipe = {
        "quantize": [{"layers": "all", "centroids": 3}],
        "trainable": ["all"],
        "recover": [{"step": "nudge", "epochs": 4, "batch_size": 16, "held_out": 0.25}],
    }

    def run(heard: Heard, workdir: Path | None) -> Tensor:
        result = lloydmax.compress(small_net, recipe, pictures, progress=False, workdir=workdir, listeners=[heard])
        return result.model(pictures)

    wanted = run(Heard(), None)
    with pytest.raises(RuntimeError):
        run(Heard(10), tmp_path)
    rest = Heard()
    assert torch.equal(run(rest, tmp_path), wanted)
    assert [index for index, _, _ in rest.told] == list(range(9, 17)), "two of four epochs were kept"


def test_nothing_to_train_is_told(student: nn.Module, small_net: SmallNet, pictures: Tensor) -> None:
    with pytest.raises(lloydmax.RecoveryError, match="nudge has nothing to train"):
        nudge(student.requires_grad_(False), small_net, pictures)


def test_options_are_checked(student: nn.Module, small_net: SmallNet, pictures: Tensor) -> None:
    with pytest.raises(lloydmax.RecoveryError, match="did you mean 'epochs'"):
        nudge(student, small_net, pictures, epoch=2)


class Forgetful(TrainingLoop):
    """Without an optimizer."""


class Shaped(TrainingLoop):
    """Its loss is one for each sample."""

    def loss(self, found: list[Tensor], wanted: list[Tensor]) -> Tensor:
        return (found[0] - wanted[0]).square().mean(1)


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        (Forgetful, "nudge: Forgetful sets no self.optimizer, and has no step of its own"),
        (Shaped, r"nudge: the loss 'loss' has shape \(16,\); it has to be one number"),
    ],
)
def test_what_a_loop_leaves_out_is_told(
    student: nn.Module, small_net: SmallNet, pictures: Tensor, monkeypatch: pytest.MonkeyPatch,
    loop: type[TrainingLoop], expected: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(Nudge, "run", lambda self, recovery: loop("nudge", self.options, recovery).run())
    with pytest.raises(lloydmax.RecoveryError, match=expected):
        nudge(student, small_net, pictures)
