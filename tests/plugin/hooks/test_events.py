"""Events: who hears what, in which order, how long stages took, and what a listener can do."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import PluginError, StopRecovery, hookimpl
from lloydmax.hooks import registry
from lloydmax.hooks.events import Events
from torch import Tensor

RECIPE = {
    "name": "small",
    "quantize": [{"layers": "all", "centroids": 4}],
    "trainable": ["all"],
    "recover": [
        {"step": "renormalize", "samples": 96},
        {"step": "distill", "epochs": 3, "batch_size": 16, "lr": 0.01, "precision": "float32"},
    ],
}


def test_events_reach_the_listeners_of_this_run_only(small_net: SmallNet, pictures: Tensor) -> None:
    class Listener:
        def __init__(self) -> None:
            self.stages: list[str] = []
            self.fitted: list[str] = []
            self.steps: list[tuple[str, int, int]] = []

        @hookimpl
        def lloydmax_stage_started(self, stage: str) -> None:
            self.stages.append(stage)

        @hookimpl
        def lloydmax_parameter_fitted(self, name: str) -> None:
            self.fitted.append(name)

        @hookimpl
        def lloydmax_step(self, step: str, index: int, total: int, metrics: dict[str, float]) -> None:
            assert all(isinstance(value, float) for value in metrics.values())
            self.steps.append((step, index, total))

    heard, deaf = Listener(), Listener()
    lloydmax.compress(small_net, RECIPE, data=pictures, progress=False, listeners=[heard])
    assert heard.stages[:3] == ["prepare", "teacher", "fit"] and heard.stages[-2:] == ["finish", "measure"]
    assert heard.fitted == ["stem.weight", "depthwise.weight", "padded.weight", "head.0.weight", "head.2.weight"]
    last = [step for step in heard.steps if step[0] == "distill"][-1]
    assert last[1] == last[2] > 0 and deaf.steps == []


def test_a_listener_can_stop_the_run(small_net: SmallNet, pictures: Tensor) -> None:
    class Pruner:
        @hookimpl
        def lloydmax_step(self, step: str, index: int) -> None:
            if step == "distill" and index == 2:
                raise StopRecovery("pruned")

    with pytest.raises(StopRecovery, match="pruned"):
        lloydmax.compress(small_net, RECIPE, data=pictures, progress=False, listeners=[Pruner()])


class Diary:
    """A listener that writes down everything that it hears."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    @hookimpl
    def lloydmax_stage_started(self, stage: str, total: int | None) -> None:
        self.lines.append(("started", stage, total))

    @hookimpl
    def lloydmax_stage_finished(self, stage: str, seconds: float, metrics: dict[str, Any]) -> None:
        self.lines.append(("finished", stage, round(seconds, 6), dict(metrics)))

    @hookimpl
    def lloydmax_parameter_fitted(self, name: str, codebook: object, index: int, total: int) -> None:
        self.lines.append(("fitted", name, codebook, index, total))

    @hookimpl
    def lloydmax_step(self, step: str, index: int, total: int, metrics: dict[str, float]) -> None:
        self.lines.append(("step", step, index, total, metrics))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What time it is: ``clock.now``."""
    hands = SimpleNamespace(now=100.0)
    monkeypatch.setattr("lloydmax.hooks.events.time", SimpleNamespace(perf_counter=lambda: hands.now))
    return hands


def test_everything_is_told_in_order_with_what_was_measured(clock: SimpleNamespace) -> None:
    diary = Diary()
    events = Events([diary])
    book: Any = object()
    with events.stage("fit", total=2) as metrics:
        events.fitted("a", book, 1, 2)
        clock.now += 2
        events.step("fit", 1, 2, {"loss": 0.5})
        events.step("fit", 2, 2)
        metrics["error"] = 0.25
    assert diary.lines == [
        ("started", "fit", 2),
        ("fitted", "a", book, 1, 2),
        ("step", "fit", 1, 2, {"loss": 0.5}),
        ("step", "fit", 2, 2, {}),
        ("finished", "fit", 2.0, {"error": 0.25}),
    ]
    assert events.seconds == {"fit": 2.0}


def test_a_stage_within_a_stage_is_told_and_its_time_is_that_of_the_outer_one(clock: SimpleNamespace) -> None:
    diary = Diary()
    events = Events([diary])
    with events.stage("distill"):
        clock.now += 1
        for _ in range(2):
            with events.stage("teacher"):
                clock.now += 4
                with events.stage("ranges"):
                    clock.now += 8
    with events.stage("measure"):
        clock.now += 16
    with events.stage("distill"):
        clock.now += 32
    assert events.seconds == {"distill": 25 + 32, "measure": 16}, "no second counts twice"
    assert sum(events.seconds.values()) == clock.now - 100
    finished = [line[1:3] for line in diary.lines if line[0] == "finished"]
    assert finished[:3] == [("ranges", 8), ("teacher", 12), ("ranges", 8)] and finished[4] == ("distill", 25)


def test_the_seconds_of_a_run_are_no_more_than_it_took(small_net: SmallNet, pictures: Tensor) -> None:
    started = time.perf_counter()
    report = lloydmax.compress(small_net, RECIPE, data=pictures, progress=False).report
    assert "teacher" not in report.seconds, "it ran within other stages"
    assert 0 < sum(report.seconds.values()) <= time.perf_counter() - started


def test_a_stage_that_fails_is_finished_and_the_next_one_counts(clock: SimpleNamespace) -> None:
    diary = Diary()
    events = Events([diary])
    with pytest.raises(ValueError, match="torn"), events.stage("fit") as metrics:
        clock.now += 1
        metrics["reached"] = 3
        with events.stage("teacher"):
            raise ValueError("torn")
    assert [line[:2] for line in diary.lines[-2:]] == [("finished", "teacher"), ("finished", "fit")]
    assert diary.lines[-1] == ("finished", "fit", 1.0, {"reached": 3})
    with events.stage("measure"):
        clock.now += 5
    assert events.seconds == {"fit": 1.0, "measure": 5.0}


def test_a_plugin_hears_every_run_and_a_listener_its_own() -> None:
    plugin, first, second = Diary(), Diary(), Diary()
    registry.register(plugin, "diary")
    try:
        for name, listener in (("one", first), ("two", second)):
            with Events([listener]).stage(name):
                pass
    finally:
        registry.unregister(plugin)
    with Events([second]).stage("three"):
        pass
    heard = [[line[1] for line in diary.lines if line[0] == "started"] for diary in (plugin, first, second)]
    assert heard == [["one", "two"], ["one"], ["two", "three"]]


def test_several_listeners_hear_the_same() -> None:
    diaries = [Diary(), Diary(), Diary()]
    events = Events(diaries)
    with events.stage("fit"):
        events.step("fit", 1, 1)
    assert diaries[0].lines == diaries[1].lines == diaries[2].lines and len(diaries[0].lines) == 3


class Raising:
    """A listener that fails at one hook."""

    def __init__(self, at: str) -> None:
        self.at = at

    @hookimpl
    def lloydmax_stage_started(self, stage: str) -> None:
        self._raise("started")

    @hookimpl
    def lloydmax_stage_finished(self, stage: str) -> None:
        self._raise("finished")

    @hookimpl
    def lloydmax_step(self, step: str) -> None:
        self._raise("step")

    def _raise(self, at: str) -> None:
        if at == self.at:
            raise OSError(f"no space left for {at}")


@pytest.mark.parametrize("at", ["started", "step", "finished"])
def test_what_a_listener_raises_reaches_the_caller(at: str, clock: SimpleNamespace) -> None:
    raising = Raising(at)
    events = Events([raising])
    with pytest.raises(OSError, match=f"no space left for {at}"), events.stage("fit"):
        clock.now += 1
        events.step("fit", 1, 1)
    raising.at = "never"
    with events.stage("measure"):
        clock.now += 2
    assert events.seconds["measure"] == 2, "the stage that failed is not open any more"


def test_a_misspelt_hook_of_a_listener_is_an_error_that_names_it(small_net: SmallNet) -> None:
    class Typo:
        @hookimpl
        def lloydmax_stepp(self, step: str) -> None:
            raise AssertionError

    class Wrong:
        @hookimpl
        def lloydmax_step(self, number: int) -> None:
            raise AssertionError

    plain = {"quantize": [{"layers": "all"}]}
    for listener, words in ((Typo(), "Typo.*'lloydmax_stepp'; did you mean 'lloydmax_step'"), (Wrong(), "number")):
        with pytest.raises(PluginError, match=words):
            lloydmax.compress(small_net, plain, listeners=[listener], progress=False)
    lloydmax.compress(small_net, plain, progress=False)


def test_a_run_that_a_listener_stops_is_told_to_the_others_and_leaves_the_model_alone(
    small_net: SmallNet, pictures: Tensor
) -> None:
    class Pruner:
        @hookimpl
        def lloydmax_step(self, step: str, index: int) -> None:
            if step == "distill" and index == 2:
                raise StopRecovery("pruned")

    before = {name: tensor.clone() for name, tensor in small_net.state_dict().items()}
    diary = Diary()
    with pytest.raises(StopRecovery, match="pruned"):
        lloydmax.compress(small_net, RECIPE, data=pictures, progress=False, listeners=[diary, Pruner()])
    opened = [line[1] for line in diary.lines if line[0] == "started"]
    closed = [line[1] for line in diary.lines if line[0] == "finished"]
    assert closed[-1] == "distill" and sorted(opened) == sorted(closed)
    assert max(line[2] for line in diary.lines if line[:2] == ("step", "distill")) <= 2
    assert all(torch.equal(before[name], tensor) for name, tensor in small_net.state_dict().items())
