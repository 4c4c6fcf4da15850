"""Recovery on two processes, as ``torchrun`` starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, os, sys, torch, lloydmax
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 6)).eval()
data = torch.randn(70, 3, 8, 8, generator=torch.Generator().manual_seed(1))
losses, dying = [], len(sys.argv) > 2 and os.environ.get("RANK") == "1"

class Listener:
    @lloydmax.hookimpl
    def lloydmax_step(self, step, index, metrics):
        if dying and index == 2:
            os._exit(3)
        if step == "distill" and "loss" in metrics:
            losses.append(metrics["loss"])

recipe = {"quantize": [{"layers": "all", "centroids": 3}], "trainable": ["all"], "recover": [
    {"step": "renormalize", "samples": 70},
    {"step": "distill", "epochs": 4, "batch_size": 16, "lr": 0.01, "precision": "float32", "loss": "kl"}]}
result = lloydmax.compress(net, recipe, data, progress=False, listeners=[Listener()])
size = result.save(sys.argv[1] + ".safetensors")
assert os.environ.get("RANK", "0") != "0" or size == os.path.getsize(sys.argv[1] + ".safetensors")
agreement = [stage.agreement.top1 for stage in result.report.stages[1:]]
open(sys.argv[1] + os.environ.get("RANK", ""), "w").write(json.dumps([losses, agreement]))
"""


def run(folder: Path, name: str, processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    ports = [] if processes == 1 else ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = [sys.executable, *launcher, *ports, str(program), str(folder / name), *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment | {"OMP_NUM_THREADS": "1"}
    )


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        done = run(tmp_path, name, processes)
        assert done.returncode == 0, done.stderr[-3000:]
    losses, agreement = json.loads((tmp_path / "one").read_text())
    for rank in "01":
        shared, alike = json.loads((tmp_path / f"two{rank}").read_text())
        assert len(shared) == len(losses) == 16
        assert max(abs(a - b) for a, b in zip(shared, losses, strict=True)) < 1e-5
        assert alike == pytest.approx(agreement, abs=0.02)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["one.safetensors", "two.safetensors"]


@pytest.mark.slow
def test_a_killed_process_ends_the_job_with_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, "killed", 2, "dying")
    assert done.returncode != 0 and not (tmp_path / "killed.safetensors").exists()
