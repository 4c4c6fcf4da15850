"""One line for each stage on a terminal, nothing elsewhere."""

from __future__ import annotations

import io
import json
import re
import time
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax.progress.bars import ProgressBars
from lloydmax.progress.jsonlog import JsonLog
from rich.console import Console
from torch import Tensor

RECIPE: dict[str, Any] = {
    "quantize": [{"layers": "all", "centroids": 4, "importance": "fisher"}],
    "trainable": ["all"],
    "recover": [
        {"step": "renormalize", "samples": 64},
        {"step": "distill", "epochs": 2, "batch_size": 24, "held_out": 0.25},
    ],
}


def drawn(run: Any, terminal: bool = True) -> str:
    """What is left on a screen when ``run(listener)`` is through."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=150, color_system=None, _environ={"TERM": "xterm"})
    with ProgressBars(console) as bars:
        run(bars)
    frame = re.split(r"\x1b\[\d*A|\x1b\[2K", screen.getvalue())
    return "\n".join(re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", part) for part in frame)


def last_line(text: str, stage: str) -> str:
    return [line for line in text.splitlines() if line.startswith(f"{stage} ")][-1]


def compress(net: SmallNet, pictures: Tensor, recipe: dict[str, Any], *listeners: object) -> None:
    lloydmax.compress(net, recipe, pictures, progress=False, listeners=listeners)


def test_every_stage_has_a_line_with_pace_and_number(small_net: SmallNet, pictures: Tensor) -> None:
    text = drawn(lambda bars: compress(small_net, pictures, RECIPE, bars))
    for stage, counted, number in (
        ("importance fisher", r"96/96 .* samples/s", ""),
        ("fit", r"5/5 .* layers/s", r"4 centroids  head\.2\.weight"),
        ("measure", r"96/96 .* samples/s", r"agreement \d+\.\d %"),
        ("renormalize", r"2/2 .* layers/s", r"layers 2  moved \d+\.\d %"),
        ("prepare", "", r"layers 5  model 9\.09 kB"),
        ("finish", r"5/5 .* layers/s", r"file \d\.\d\d kB  reduction \d\d\.\d %"),
        ("distill", r"6/6 .* it/s", r"loss \S+  agreement \d+\.\d %"),
    ):
        line = last_line(text, stage)
        assert re.search(counted, line) and re.search(r"in \d+:\d\d", line) and re.search(number, line), line


def test_a_running_stage_tells_its_pace_the_time_left_and_its_number() -> None:
    def stage(bars: ProgressBars) -> None:
        bars.lloydmax_stage_started("distill", None)
        for index in range(1, 6):
            bars.lloydmax_step("distill", index, 1000, {"loss": 0.25, "agreement": 0.5} if index == 1 else {})
            time.sleep(0.1)

    assert re.search(r"distill .* \d/1,000 +\d+\.\d it/s +\d:\d\d left loss 0\.25  agreement 50\.0 %", drawn(stage))


def running(run: Any, stage: str) -> list[tuple[int, int, dict[str, float]]]:
    """What a stage tells while it runs: ``(done, total, metrics)``."""
    stream = io.StringIO()
    run(JsonLog(stream))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [(x["index"], x["total"], x["metrics"]) for x in lines if (x["event"], x["stage"]) == ("step", stage)]


@pytest.mark.parametrize(
    ("step", "options", "units", "number"),
    [
        ("renormalize", {"mode": "fast", "batch_size": 32}, 6, "moved"),
        ("renormalize", {"memory": 1e-6, "relative": True}, 2, "moved"),
        ("correct_bias", {}, 4, "corrected"),
        ("equalize", {"method": "batch_norm"}, 2, "spread"),
        ("equalize", {"iterations": 4}, 4, "spread"),
    ],
)
def test_a_step_has_a_number_while_it_runs(
    small_net: SmallNet, pictures: Tensor, step: str, options: dict[str, Any], units: int, number: str
) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 4}], "recover": [{"step": step, **options}]}
    told = running(lambda log: compress(small_net, pictures, recipe, log), step)
    assert told[-1][0] <= told[-1][1] == units
    assert all(index <= total and 0 <= metrics[number] < 10 for index, total, metrics in told)
    text = drawn(lambda bars: compress(small_net, pictures, recipe, bars))
    assert re.search(rf"{step} .* {number}( before)? \d", text)


def test_file_and_calibration_have_numbers_while_they_run(small_net: SmallNet, pictures: Tensor) -> None:
    recipe: dict[str, Any] = {"quantize": [{"layers": "all", "centroids": 4}], "storage": {"codes": "entropy"}}
    told = running(lambda log: compress(small_net, pictures, recipe, log), "finish")
    coded = [metrics["coded_bytes"] for _, _, metrics in told[1:]]
    assert [(index, total) for index, total, _ in told] == [(n, 5) for n in range(6)]
    assert told[0][2]["predicted_bytes"] > coded[-1] and coded == sorted(coded) and coded[0] > 0
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(400, 5))
    recipe = {"quantize": [{"layers": "all", "centroids": 16}], "activations": {"samples": 96}}
    told = running(
        lambda log: lloydmax.compress(net.eval(), recipe, pictures, progress=False, listeners=[log]), "calibrate"
    )
    assert [(index, total) for index, total, _ in told] == [(32, 96), (64, 96), (96, 96)]
    widened = [metrics["widened"] for _, _, metrics in told]
    assert widened[0] == 1 and 0 <= widened[2] < 0.5 and told[0][2]["activations"] >= 2


def test_the_search_and_a_recipe_of_bits_have_lines(small_net: SmallNet, pictures: Tensor) -> None:
    quiet = {"centroids": [2, 4, 16], "progress": False}
    text = drawn(lambda bars: lloydmax.search(small_net, RECIPE, pictures, {"bits": 5}, listeners=[bars], **quiet))
    assert re.search(r"choices/s .* damage \S+", last_line(text, "search"))
    assert re.search(r"choices/s", last_line(text, "sweep"))
    priced = {"quantize": [{"layers": "all", "centroids": 64}], "bits": 12, "storage": {"codes": "entropy"}}
    text = drawn(lambda bars: compress(small_net, pictures, priced, bars))
    assert re.search(r"layers/s", last_line(text, "price"))


def test_images_that_are_made_have_a_line(small_net: SmallNet) -> None:
    text = drawn(lambda bars: lloydmax.synthesize(small_net, 4, 12, steps=5, batch_size=4, listeners=[bars]))
    assert re.search(r"5/5 .* it/s +in 0:0\d gap \S+", last_line(text, "synthesize"))


def test_nothing_is_written_where_there_is_no_terminal(
    small_net: SmallNet, pictures: Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    assert drawn(lambda bars: compress(small_net, pictures, RECIPE, bars), terminal=False) == ""
    lloydmax.compress(small_net, {"quantize": RECIPE["quantize"]}, pictures)
    assert capfd.readouterr() == ("", "")
