"""What commands say while they run: nothing, bars or JSON lines."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SmallNet
from lloydmax.cli.shown import plain_warnings
from lloydmax_command import main
from PIL import Image


def _stages(option: str | None, stderr: str) -> list[str]:
    lines = stderr.splitlines()
    return [json.loads(line)["stage"] for line in lines] if option == "--log-json" else [s.split()[0] for s in lines]


@pytest.mark.parametrize(("option", "told"), [("--quiet", False), ("--log-json", True), (None, True)])
def test_options_hold_for_images_that_are_made_too(
    small_net: SmallNet, tmp_path: Path, option: str | None, told: bool
) -> None:
    torch.save(small_net.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "recipe.yaml").write_text("quantize:\n  - {layers: all, centroids: 4}\n")
    arguments = ["compress", "--model", "conftest:SmallNet", "--weights", tmp_path / "weights.pt", "--recipe",
                 tmp_path / "recipe.yaml", "--data", "synthesize:2", "--image-size", 12, "--out",
                 tmp_path / "model.safetensors", *filter(None, [option])]  # fmt: skip
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    stages = _stages(option, done.stderr)
    assert {"synthesize", "fit"} <= set(stages) if told else not stages
    assert option is not None or len(set(stages)) == len(stages)  # without a terminal a line for each


def test_errors_and_warnings_are_json_lines_too(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros((0, 3, 12, 12), np.float32))
    (tmp_path / "recipe.yaml").write_text("quantize:\n  - {layers: all, centroids: 4}\n")
    arguments = ["compress", "--model", "conftest:SmallNet", "--recipe", tmp_path / "recipe.yaml", "--data",
                 tmp_path / "data.npy", "--out", tmp_path / "model.safetensors", "--log-json"]  # fmt: skip
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    last = json.loads(done.stderr.splitlines()[-1])
    assert done.exit_code == 2 and last["event"] == "error" and "is empty" in last["metrics"]["message"]


def test_warnings_before_the_work_are_json_lines(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(np.full((20, 16, 3), 40 * number, np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "3.png").write_bytes(b"")
    (tmp_path / "recipe.yaml").write_text("quantize:\n  - {layers: all, centroids: 4}\n")
    arguments = ["compress", "--model", "conftest:SmallNet", "--recipe", tmp_path / "recipe.yaml", "--size", "12",
                 "--data", tmp_path / "photos", "--out", tmp_path / "model.safetensors", "--log-json"]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    told = [json.loads(line)["metrics"].get("message", "") for line in done.stderr.splitlines()]
    assert done.exit_code == 0 and any(line.startswith("1 of 4 samples left out") for line in told), done.output


def test_a_warning_is_one_line_without_its_place_in_the_code() -> None:
    with plain_warnings():
        assert warnings.formatwarning("look", UserWarning, "code.py", 7) == "lloydmax: warning: look\n"
        assert "code.py:7" in warnings.formatwarning("look", FutureWarning, "code.py", 7)
    assert "code.py:7" in warnings.formatwarning("look", UserWarning, "code.py", 7)
