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
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 6)).eval()
data = torch.randn(210, 3, 8, 8, generator=torch.Generator().manual_seed(1))
rank, many = os.environ.get("RANK", ""), "RANK" in os.environ
losses, passes, dying = [], [0], len(sys.argv) > 2 and rank == "1"
net.register_forward_hook(lambda module, inputs, output: passes.__setitem__(0, passes[0] + len(inputs[0])))

class Listener:
    @lloydmax.hookimpl
    def lloydmax_step(self, step, index, metrics):
        if dying and index == 2:
            os._exit(3)
        if step == "distill" and "loss" in metrics:
            losses.append(metrics["loss"])

def compressed(data, name, keep, listeners=(), **options):
    step = {"step": "distill", "batch_size": 48, "lr": 0.01, "precision": "float32", "loss": "kl", **options}
    recipe = {"quantize": [{"layers": "all", "centroids": 3}], "trainable": ["all"], "recover": [
        {"step": "renormalize", "samples": 70}, step], "keep": keep}
    result = lloydmax.compress(net, recipe, data, progress=False, listeners=listeners)
    size = result.save(f"{sys.argv[1]}-{name}.safetensors")
    assert rank not in ("", "0") or size == os.path.getsize(f"{sys.argv[1]}-{name}.safetensors")
    return [(stage.agreement.top1, stage.agreement.kl) for stage in result.report.stages[1:]]

measured = compressed(data, "whole", "best", [Listener()], epochs=4)
passes[0] = 0
shares = TensorDataset(data)
if many:
    torch.distributed.init_process_group("gloo")
    shares = DataLoader(shares, 16, sampler=DistributedSampler(shares))
    alone = data[:100] if rank == "0" else data[100:200]
    try:
        lloydmax.distill(net, net, alone)
        raise SystemExit("different data were taken")
    except lloydmax.DataError as error:
        assert "different data" in str(error), error
same = compressed(shares, "parts", "all", epochs=2, parts=4, batch_norm="train", mixup=0.2, codes="learn")
open(sys.argv[1] + rank, "w").write(json.dumps([losses, measured, same]))
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
    losses, measured, same = json.loads((tmp_path / "one").read_text())
    for rank in "01":
        shared, alike, exactly = json.loads((tmp_path / f"two{rank}").read_text())
        assert len(shared) == len(losses) == 12
        assert max(abs(a - b) for a, b in zip(shared, losses, strict=True)) < 1e-5
        assert [kl for _, kl in alike] == pytest.approx([kl for _, kl in measured], rel=1e-3)
        assert exactly == same
    written = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert len(written) == 4 and written["one-parts.safetensors"] == written["two-parts.safetensors"]


@pytest.mark.slow
def test_a_killed_process_ends_the_job_with_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, "killed", 2, "dying")
    assert done.returncode != 0 and not [*tmp_path.glob("killed*.safetensors")]
