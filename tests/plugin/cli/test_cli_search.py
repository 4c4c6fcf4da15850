"""The command that searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SmallNet
from lloydmax import Recipe
from lloydmax_command import main


@pytest.fixture
def sharp_net(small_net: SmallNet) -> SmallNet:
    """With decided answers, so that divergences are far above rounding."""
    with torch.no_grad():
        small_net.head[2].weight *= 100
    return small_net


@pytest.fixture
def work(tmp_path: Path, sharp_net: SmallNet) -> Path:
    text = "quantize:\n  - {layers: all}\nsearch: {budget: {bits: 3}, centroids: [2, 4, 8], samples: 32}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    torch.save(sharp_net.state_dict(), tmp_path / "weights.pt")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(40, 3, 12, 12)).astype(np.float32))
    return tmp_path


def run(work: Path, *more: Any, status: int = 0) -> Any:
    arguments = ["search", "--model", "conftest:SmallNet", "--weights", work / "weights.pt", "--quiet", "--json"]
    arguments += ["--recipe", work / "recipe.yaml", "--data", work / "data.npy", *more]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return json.loads(result.stdout) if status < 2 else result.output


def test_command_line(work: Path) -> None:
    found = run(work, "--out", work / "found.yaml", "--workdir", work)
    assert found["found"]["bits"] <= 3 and list(work.glob("search-*.jsonl"))
    rules = Recipe.load(work / "found.yaml").quantize
    assert {rule.options["centroids"] for rule in rules} == set(found["found"]["choice"].values())
    swept = run(work, "--sweep", "--out", work / "sweep.json", "--by-rule", "--centroids", "4,16")
    assert {row["centroids"] for row in swept["rows"]} == {4, 16}
    assert json.loads((work / "sweep.json").read_text())["rows"] == swept["rows"]
    assert run(work, "--budget", "bytes=10", status=1)["ok"] is False
    assert "NAME=VALUE" in run(work, "--budget", "bits", status=2)
    assert "did you mean" in run(work, "--method", "lagrange", status=2)


def test_a_point_of_the_curve_is_picked(work: Path) -> None:
    picture, out = work / "curve.svg", work / "picked.yaml"
    found = run(work, "--curve", "--pick", "70%", "--workdir", work, "--out", out, "--plot", picture)
    points = found["points"]
    sizes = [point["file_bytes"] for point in points]
    agreements = [min(point["measured"]["alike"]) for point in points]
    assert sizes == sorted(sizes) and agreements == sorted(set(agreements)) and len(points) > 2
    place = found["picked"]
    assert agreements[place] >= 0.7 and (place == 0 or agreements[place - 1] < 0.7)
    rules = Recipe.load(out).quantize
    assert {rule.options["centroids"] for rule in rules} == set(points[place]["choice"].values())
    assert picture.read_text().startswith("<?xml")
    unreached = run(work, "--curve", "--pick", "100%", "--centroids", "2,3", "--workdir", work, status=1)
    assert "no size reaches an agreement of 100.0 %" in unreached["reason"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--curve", "--pick", "x"], "--pick is an agreement, such as 98% or 0.98"),
        (["--curve", "--pick", "980%"], "--pick is an agreement"),
        (["--pick", "98%"], "give --curve, too"),
        (["--curve", "--sweep"], "leave out --sweep and --budget"),
        (["--curve", "--out", "found.yaml"], "say which, such as --pick 98%"),
    ],
)
def test_what_a_curve_is_not_asked_for_is_one_line(work: Path, asked: list[str], said: str) -> None:
    assert said in run(work, *asked, status=2)
