"""The example of a third party's plugin: installed, found through its entry point, its files read by TensorBoard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "lloydmax-tensorboard"
RUN = """
import sys, lloydmax, torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
recipe = {"quantize": [{"layers": "all", "centroids": 4}], "trainable": ["all"],
          "recover": [{"step": "distill", "epochs": 2, "batch_size": 16, "held_out": 0.25}]}
lloydmax.compress(net, recipe, torch.randn(64, 8), progress=False)
if "--listener" in sys.argv:
    from lloydmax_tensorboard import TensorBoard
    lloydmax.compress(net, recipe, torch.randn(64, 8), progress=False, listeners=[TensorBoard(sys.argv[-1])])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built and installed by pip into a folder of its own."""
    pytest.importorskip("tensorboard", reason="the example needs TensorBoard")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    return target


def test_an_installed_plugin_hears_every_run(installed: Path, tmp_path: Path) -> None:
    everywhere, own = tmp_path / "everywhere", tmp_path / "own"
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "PYTHONPATH": path, "LLOYDMAX_TENSORBOARD": str(everywhere)}
    subprocess.run([sys.executable, "-c", RUN, "--listener", str(own)], check=True, env=variables)
    heard, alone = scalars(everywhere), scalars(own)
    assert len(alone["distill/loss"]) == 6 and len(heard["distill/loss"]) == 12
    assert [step for step, _ in alone["distill/loss"]] == [1, 2, 3, 4, 5, 6]
    assert all(value > 0 for _, value in alone["distill/loss"])
    assert [step for step, _ in alone["distill/agreement"]] == [0, 3, 6]
    assert alone["bits/0.weight"] == [(0, 2.0)] and alone["seconds/fit"][0][1] > 0
    assert 0 <= alone["measure finished/agreement"][-1][1] <= 1


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    assert "centroids/2.weight" in events.Tags()["histograms"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
