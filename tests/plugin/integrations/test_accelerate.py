"""A program of Accelerate, as the page of the integrations has it, in one process and in two."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, lloydmax, torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == int(sys.argv[2]), accelerator.num_processes
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 6)).eval()
data = torch.randn(210, 3, 8, 8, generator=torch.Generator().manual_seed(1))
model, loader = accelerator.prepare(net, DataLoader(data, batch_size=16))
distill = {"step": "distill", "epochs": 2, "batch_size": 48, "parts": 4}
recipe = {"quantize": [{"layers": "all", "centroids": 3}], "trainable": ["all"], "recover": [distill]}
lloydmax.compress(model, recipe, loader, progress=False).save(sys.argv[1])
accelerator.wait_for_everyone()
lloydmax.verify(sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    if shutil.which("mpirun") is None:
        pytest.skip("accelerate launch starts several processes on CPUs by mpirun alone, which is not there")
    program, hosts = tmp_path / "program.py", tmp_path / "hosts"
    program.write_text(PROGRAM)
    hosts.write_text("localhost slots=2\n")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    allowed = dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1")
    written = []
    for count, more in ((1, []), (2, ["--mpirun_hostfile", str(hosts)])):
        file = tmp_path / f"{count}.safetensors"
        command = [*launch, "--num_processes", str(count), *more, str(program), str(file), str(count)]
        environment = os.environ | allowed | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        written.append(file.read_bytes())
    assert written[0] == written[1]
