"""Events: who hears what, in which order, how long stages took, and what a listener can do."""

from __future__ import annotations

import lloydmax
import pytest
from conftest import SmallNet
from lloydmax import StopRecovery, hookimpl
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
