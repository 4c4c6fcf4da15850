"""A run with a limited time does what it has time for, and says what it left out."""

from __future__ import annotations

import math
from typing import Any

import lloydmax
import pytest
from conftest import SmallNet
from lloydmax import RecipeError, hookimpl
from lloydmax.extend import Recovery
from lloydmax.hooks.events import Events
from lloydmax.hooks.time_limit import TimeLimit
from lloydmax.recovery.steps import in_time
from torch import Tensor

RECIPE: dict[str, Any] = {
    "quantize": [{"layers": "all", "centroids": 4, "importance": "fisher"}],
    "recover": [
        {"step": "correct_bias"},
        {"step": "distill", "steps": 40, "batch_size": 8},
        {"step": "distill", "steps": 40, "batch_size": 8},
    ],
}


class Watch:
    """A second passes with every sign of progress."""

    def __init__(self) -> None:
        self.now = 0.0
        self.taken: dict[str, int] = {}
        self.started: dict[str, float] = {}

    def __call__(self) -> float:
        return self.now

    @hookimpl
    def lloydmax_stage_started(self, stage: str) -> None:
        """Note the first time."""
        self.started.setdefault(stage, self.now)

    @hookimpl
    def lloydmax_step(self, step: str) -> None:
        """Wait."""
        self.now += 1
        self.taken[step] = self.taken.get(step, 0) + 1


def run(net: SmallNet, pictures: Tensor, watch: Watch, seconds: Any) -> Any:
    """The report of a run by this watch."""
    limit = TimeLimit(seconds, watch)
    found = lloydmax.compress(net, RECIPE, pictures, progress=False, listeners=[watch], max_time=limit)
    return found.report


def test_a_loop_takes_the_steps_that_there_is_time_for(small_net: SmallNet, pictures: Tensor) -> None:
    free = Watch()
    whole = run(small_net, pictures, free, math.inf)
    before = free.started["distill"]
    assert not any("max_time" in note for note in whole.notes)
    assert [said.get("cut") for said in whole.recovery] == [None] * 3
    watch = Watch()
    report = run(small_net, pictures, watch, before + 60)
    _, first, second = report.recovery
    assert first["steps"] == 40 and 2 <= second["steps"] <= 20 and second["cut"] == f"{second['steps']} of 40 steps"
    assert f"cut by max_time: distill: {second['cut']}" in report.notes
    assert second["stopped"] == "no time was left" and watch.now <= before + 75


def test_what_cannot_be_done_at_all_is_left_out_and_told(small_net: SmallNet, pictures: Tensor) -> None:
    watch = Watch()
    report = run(small_net, pictures, watch, 2.0)
    assert [said["cut"] for said in report.recovery] == ["not run"] * 3 and watch.taken["importance fisher"] == 1
    assert any(f"importance fisher: 8 of {len(pictures)} inputs" in note for note in report.notes)
    assert any("it took" in note for note in report.notes)
    assert "max_time" in str(report)


def test_a_step_that_tells_its_progress_is_ended(small_net: SmallNet) -> None:
    watch = Watch()
    limit = TimeLimit(4, watch)
    recovery = Recovery(small_net, small_net, events=Events([watch, limit]), limit=limit)

    class Slow:
        """Ten rounds."""

        def run(self, recovery: Recovery) -> dict[str, Any]:
            """Wait."""
            for index in range(10):
                recovery.events.step("slow", index + 1, 10)
            return {}

    assert in_time(recovery, ("slow", Slow()))["cut"] == "ended before it was done"
    assert 4 <= watch.now <= 5
    with limit.ending(False):
        recovery.events.step("slow", 1, 1)


@pytest.mark.parametrize("given", ["soon", "", 0, -1, "-3m", "10x", float("inf"), True])
def test_what_is_no_time_is_refused(small_net: SmallNet, given: Any) -> None:
    with pytest.raises(RecipeError, match=r"max_time (is seconds|must be a number above 0)"):
        lloydmax.compress(small_net, RECIPE, max_time=given)


def test_pictures_are_matched_as_long_as_there_is_time(small_net: SmallNet) -> None:
    def made(seconds: float) -> tuple[int, tuple[str, ...]]:
        watch = Watch()
        pictures = {"kind": "matched", "samples": 16, "shape": [3, 12, 12]}
        recipe = {"quantize": [{"layers": "all", "centroids": 4}], "synthesize": pictures}
        limit = TimeLimit(seconds, watch)
        report = lloydmax.compress(small_net, recipe, progress=False, listeners=[watch], max_time=limit).report
        return watch.taken.get("synthesize", 0), report.notes

    whole, notes = made(math.inf)
    assert whole > 8 and not any("max_time" in note for note in notes)
    few, notes = made(20)
    assert 0 < few < 8 and any("make inputs: pictures are less like" in note for note in notes)
