"""The third party's package of strategies/README.md: installed with pip, found, used; its mistakes are told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lloydmax
import numpy as np
import pytest
from lloydmax import demo

SOURCE = Path(__file__).parents[2] / "example_plugin"
PAGE = SOURCE.parent.parent / "strategies" / "README.md"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package, without network."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", folder / "site", folder / "source"], check=True)
    return folder / "site"


def lloydmax_command(site: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from lloydmax_command import main; main()", *map(str, arguments)]
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def changed(installed: Path, tmp_path: Path, old: str, new: str) -> Path:
    """The installed package with other words in its module."""
    site = shutil.copytree(installed, tmp_path / "site")
    module = site / "lloydmax_example.py"
    assert old in module.read_text()
    module.write_text(module.read_text().replace(old, new))
    return site


def test_it_is_listed_with_its_distribution(installed: Path) -> None:
    result = lloydmax_command(installed, "plugins", "--json")
    rows = {(row["kind"], row["name"]): (row["plugin"], row["distribution"]) for row in json.loads(result.stdout)}
    assert rows["quantizer", "powers_of_two"] == rows["step", "match_outputs"] == ("example", "lloydmax-example")
    assert rows["quantizer", "kmeans"] == ("kmeans", "lloydmax")


def test_a_recipe_names_it_and_compress_runs_it(installed: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", demo.silhouettes()[:200].numpy())
    log, out, report = tmp_path / "log.jsonl", tmp_path / "small.safetensors", tmp_path / "report.json"
    model = ["--model", "lloydmax.demo:network", "--recipe", SOURCE / "example.yaml", "--data", tmp_path / "data.npy"]
    result = lloydmax_command(
        installed, "compress", *model, "--out", out, "--report", report, "--quiet", LLOYDMAX_EXAMPLE_LOG=str(log)
    )
    assert result.returncode == 0, result.stderr
    stages = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"fit", "match_outputs"} <= {stage["stage"] for stage in stages}
    assert next(stage for stage in stages if stage["stage"] == "match_outputs")["samples"] == 200
    before, after = (stage["agreement"]["mse"] for stage in json.loads(report.read_text())["stages"][1:])
    assert after < before, "the step brings the outputs nearer to the teacher's"
    books = lloydmax.codebooks(lloydmax.load(out, demo.network()))
    for book in books.values():
        values = book.centroids.abs()
        assert book.k == 15 and set((values[values > 0].log2() % 1).tolist()) == {0}


def test_without_it_the_recipe_says_what_to_install() -> None:
    with pytest.raises(lloydmax.RecipeError, match="pip install 'lloydmax-example'"):
        lloydmax.Recipe.load(SOURCE / "example.yaml")


@pytest.mark.parametrize(
    ("old", "new"),
    [("def lloydmax_quantizers", "def lloydmax_quantisers"), ('"powers_of_two": Pow', '"kmeans": Pow')],
    ids=["misspelt hook", "name registered twice"],
)
def test_mistakes_are_told_as_the_page_says(installed: Path, tmp_path: Path, old: str, new: str) -> None:
    result = lloydmax_command(changed(installed, tmp_path, old, new), "plugins")
    assert result.returncode == 2 and not result.stdout
    assert len(result.stderr.splitlines()) == 1 and result.stderr in PAGE.read_text(encoding="utf-8")
