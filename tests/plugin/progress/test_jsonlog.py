"""JSON lines that tell a machine what the bars tell a person."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import lloydmax
from conftest import SmallNet
from lloydmax.progress.jsonlog import JsonLog
from torch import Tensor

RECIPE: dict[str, Any] = {
    "quantize": [{"layers": "all", "centroids": 4, "importance": "fisher"}],
    "trainable": ["all"],
    "recover": [
        {"step": "renormalize", "samples": 64},
        {"step": "distill", "epochs": 2, "batch_size": 24, "held_out": 0.25},
    ],
}
KEYS = {"event", "stage", "index", "total", "seconds", "metrics"}


def test_json_lines_tell_the_same_to_a_machine(small_net: SmallNet, pictures: Tensor) -> None:
    stream = io.StringIO()
    lloydmax.compress(small_net, RECIPE, pictures, progress=False, listeners=[JsonLog(stream)])
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all(set(line) == KEYS for line in lines)
    steps = [line for line in lines if (line["event"], line["stage"]) == ("step", "distill")]
    assert steps[-1]["index"] == steps[-1]["total"] == 6 and steps[-1]["metrics"]["agreement"] <= 1
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(steps))
    fitted = [line["metrics"]["parameter"] for line in lines if line["event"] == "parameter_fitted"]
    assert len(fitted) == 5 and "head.2.weight" in fitted
    open_stages: list[str] = []
    for line in lines:
        if line["event"] == "stage_started":
            open_stages.append(line["stage"])
        elif line["event"] == "stage_finished":
            assert open_stages.pop() == line["stage"]
    assert not open_stages
