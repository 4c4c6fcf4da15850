"""Kills and flipped bits: runs are killed anywhere and gone on with, which must end in the bytes of one that was not.

    python tests/fuzz/kill.py 300 200      # so many kills and flipped bits over all jobs; prints rows of a table

Every run is a forked child of this process, which has imported everything and computed nothing: a kill is a SIGKILL at
a moment of its life, the run that goes on is another process. What is compared are the files of the job and its report.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lloydmax
import torch
from lloydmax.hooks.registry import strategies
from torch import Tensor, nn
from torch.utils.data import Dataset

Job = Callable[[Path, Path], object]
JOBS: dict[str, Job] = {}
_TIMES = re.compile(r'"seconds": ([0-9.e-]+|\{[^}]*\})')
_LIMIT = 120.0
"""Seconds after which a run hangs."""
_EARLY = 0.15
"""Share of a run's time before which little has begun: imports of the first call."""


class Net(nn.Module):
    """Convolution, batch norm, a layer that draws, two linear ones."""

    def __init__(self, draws: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.draws = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), draws
        self.hidden, self.out = nn.Linear(32, 16), nn.Linear(16, 4)
        self.relu, self.relu2 = nn.ReLU(), nn.ReLU()
        self.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 1, 6, 6)`` -> ``(N, 4)``."""
        x = nn.functional.max_pool2d(self.relu(self.norm(self.conv(x))), 2)
        if self.draws:
            x = x + 0.01 * torch.rand_like(x)
        return self.out(self.relu2(self.hidden(x.flatten(1))))


class Noisy(Dataset[Tensor]):
    """Samples that are others each time."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Tensor:
        return data()[index] + 0.1 * torch.randn(1, 6, 6)


def data(samples: int = 48, seed: int = 1) -> Tensor:
    """Unlabelled inputs."""
    return torch.randn(samples, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def _job(name: str) -> Callable[[Job], Job]:
    def registered(job: Job) -> Job:
        JOBS[name] = job
        return job

    return registered


def _compress(
    *steps: dict[str, Any], inputs: Any = None, net: Callable[[], nn.Module] = Net, reference: bool = False, **more: Any
) -> Job:
    recipe = {"quantize": [{"layers": "all", "centroids": 4}], "trainable": ["all"], **more, "recover": list(steps)}

    def run(workdir: Path, out: Path) -> None:
        result = lloydmax.compress(
            net().eval(), recipe, data() if inputs is None else inputs, data(24, 2) if reference else None, seed=3,
            progress=False, workdir=workdir,
        )  # fmt: skip
        result.save(out / "model.safetensors")
        _tell(out / "report.json", result.report.to_dict())

    return run


def _tell(path: Path, told: Any) -> None:
    path.write_text(_TIMES.sub("", json.dumps(told, sort_keys=True, default=str)), encoding="utf-8")


_LOOP = {"step": "distill", "epochs": 6, "batch_size": 8, "lr": 0.01, "precision": "float32"}
_INT8 = {
    "quantize": [{"layers": "all", "quantizer": "uniform", "bits": 8, "granularity": "channel"}],
    "activations": {"bits": 8, "samples": 24},
    "trainable": ["none"],
}
JOBS |= {
    "distill": _compress({"step": "renormalize", "samples": 32}, _LOOP | {"patience": 2}),
    "distill, priced codes": _compress(
        _LOOP | {"codes": "learn"}, quantize=[{"layers": "all", "centroids": 16}], bits=27, storage={"codes": "entropy"}
    ),
    "distill, codes": _compress(_LOOP | {"codes": "learn"}, _LOOP | {"codes": "anneal", "epochs": 3}),
    "distill, views": _compress(_LOOP | {"mixup": 0.3, "augment": ["flip"], "optimizer": "sgd"}, inputs=Noisy()),
    "distill, a model that draws": _compress(_LOOP, _LOOP | {"loss": "kl", "epochs": 2}, net=lambda: Net(True)),
    "align": _compress({"step": "align", "epochs": 2, "batch_size": 16, "precision": "float32"}, reference=True),
    "reconstruct": _compress(
        {"step": "fold_batch_norm"},
        {"step": "equalize"},
        {"step": "reconstruct"},
        {"step": "correct_bias"},
        {"step": "match_moments"},
    ),
    "train_thresholds": _compress({"step": "train_thresholds", "epochs": 2, "batch_size": 16}, **_INT8),
    "train_multipliers": _compress({"step": "train_multipliers", "epochs": 2, "batch_size": 16}, **_INT8),
}
_CHOICES = {"quantize": [{"layers": "all", "centroids": [2, 4, 8]}]}


@_job("search")
def _search(workdir: Path, out: Path) -> None:
    found = lloydmax.search(Net().eval(), _CHOICES, data(), {"bits": 3}, seed=3, workdir=workdir)
    _tell(out / "found.json", {k: v for k, v in found.to_dict().items() if k != "sweep"})


@_job("sweep")
def _sweep(workdir: Path, out: Path) -> None:
    sweep = lloydmax.sweep(Net(True).eval(), _CHOICES, data(), seed=3, estimate=False, workdir=workdir)
    _tell(out / "sweep.json", sweep.to_dict() | {"passes": 0})


@_job("save")
def _save(workdir: Path, out: Path) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 16}], "storage": {"codes": "entropy"}}
    result = lloydmax.compress(Net().eval(), recipe, progress=False)
    for _ in range(20):
        result.save(out / "model.safetensors")
        lloydmax.verify(out / "model.safetensors")


@_job("export")
def _export(workdir: Path, out: Path) -> None:
    model = lloydmax.compress(Net().eval(), {"quantize": [{"layers": "all", "centroids": 4}]}, progress=False).model
    path = out / "model.pt2"
    lloydmax.export(model, path, example_inputs=data(2))
    program = torch.export.load(path)  # an archive has times and numbers of its own in it
    torch.save(program.module()(data(2)), out / "answer.pt")
    path.unlink()


@dataclass
class Found:
    """What came of the attacks on one job."""

    attacks: int = 0
    problems: list[str] = field(default_factory=list)


def child(job: Job, workdir: Path, out: Path, log: Path, kill_after: float | None = None) -> int | None:
    """Run a job in a process of its own; its exit status, ``None`` where it was killed.

    Args:
        job: what it does.
        workdir: of the run.
        out: where results go.
        log: gets warnings and errors.
        kill_after: seconds; ``None``: let it end.
    """
    for folder in (workdir, out):
        folder.mkdir(parents=True, exist_ok=True)
    number = os.fork()
    if not number:
        _in_child(job, workdir, out, log)
    ends = time.monotonic() + (_LIMIT if kill_after is None else kill_after)
    while (done := os.waitpid(number, os.WNOHANG)) == (0, 0) and time.monotonic() < ends:
        time.sleep(0.002)
    if done == (0, 0):
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        return None
    return os.waitstatus_to_exitcode(done[1])


def _in_child(job: Job, workdir: Path, out: Path, log: Path) -> None:
    status = 1
    try:
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        warnings.simplefilter("always")
        job(workdir, out)
        status = 0
    except BaseException as error:
        print(f"{type(error).__module__}.{type(error).__qualname__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def warm(folder: Path) -> None:
    """Import what the jobs import when they run, so that their children need not."""
    for number, job in enumerate(JOBS.values()):

        def listing(workdir: Path, out: Path, job: Job = job) -> None:
            job(workdir, out)
            (folder / "modules").write_text("\n".join(list(sys.modules)), encoding="utf-8")

        if child(listing, folder / f"work{number}", folder / f"out{number}", folder / "log"):
            raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
        for name in (folder / "modules").read_text(encoding="utf-8").splitlines():
            with suppress(Exception):
                importlib.import_module(name)


def results(folder: Path) -> dict[str, bytes]:
    """The bytes of everything in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def left_over(workdir: Path) -> list[str]:
    """What should not be in a workdir after a run that ended."""
    state = re.compile(r"compress-\w{16}(/step\d+\.state)?|(search|sweep)-\w{16}\.jsonl|.*\.damaged")
    return [name for path in workdir.rglob("*") if not state.fullmatch(name := path.relative_to(workdir).as_posix())]


def whole(job: str, folder: Path) -> tuple[dict[str, bytes], float]:
    """The results of a run that nothing happens to, and its seconds."""
    started = time.monotonic()
    if (status := child(JOBS[job], folder / "work", folder / "out", folder / "log")) != 0:
        raise RuntimeError(f"{job} ended with {status}: {(folder / 'log').read_text(encoding='utf-8')}")
    return results(folder / "out"), time.monotonic() - started


def kills(job: str, times: int, folder: Path, draw: random.Random) -> Found:
    """Kill a job, sometimes twice, and go on."""
    wanted, seconds = whole(job, folder / "whole")
    found = Found()
    for number in range(times):
        place = folder / f"kill{number}"
        at = [seconds * draw.uniform(_EARLY, 1.0) for _ in range(1 + (draw.random() < 0.2))]
        for one in at:
            child(JOBS[job], place / "work", place / "out", place / "log", one)
        age(place / "out")
        status = child(JOBS[job], place / "work", place / "out", place / "log")
        found.attacks += len(at)
        found.problems += _problems(f"{job}, killed at {at}", status, place, wanted)
        if "set aside" in (place / "log").read_text(encoding="utf-8"):
            found.problems.append(f"{job}, killed at {at}: a state was taken for damaged")
        shutil.rmtree(place)
    return found


def flips(job: str, times: int, folder: Path, draw: random.Random) -> Found:
    """Flip bits in what a killed run, or one that ended, left; and go on."""
    wanted, seconds = whole(job, folder / "whole")
    found, stages = Found(), [folder / "whole" / "work"]
    for number in range(4):
        place = folder / f"stage{number}"
        child(JOBS[job], place, folder / "out", folder / "log", seconds * draw.uniform(0.5, 0.95))
        stages.append(place)
    stages = [place for place in stages if any(path.stat().st_size for path in state_files(place))]
    for number in range(times):
        place = folder / f"flip{number}"
        shutil.copytree(draw.choice(stages), place / "work")
        file = draw.choice([path for path in state_files(place / "work") if path.stat().st_size])
        before = bytearray(file.read_bytes())
        bit = draw.randrange(8 * len(before))
        before[bit // 8] ^= 1 << bit % 8
        file.write_bytes(before)
        status = child(JOBS[job], place / "work", place / "out", place / "log")
        found.attacks += 1
        what = f"{job}, bit {bit} of {file.name}"
        found.problems += _problems(what, status, place, wanted)
        if f"{file.name}: " not in (place / "log").read_text(encoding="utf-8"):
            found.problems.append(f"{what}: nothing was told")
        shutil.rmtree(place)
    return found


def age(folder: Path) -> None:
    """Make what is in a folder two days old: the next save there removes what killed ones left."""
    then = time.time() - 2 * 24 * 3600
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def state_files(workdir: Path) -> list[Path]:
    """What runs keep in a workdir, sorted."""
    return [path for path in sorted(workdir.rglob("*")) if path.suffix in (".state", ".jsonl")]


def _problems(what: str, status: int | None, place: Path, wanted: dict[str, bytes]) -> Iterator[str]:
    said = (place / "log").read_text(encoding="utf-8")
    if status != 0:
        yield f"{what}: ended with {status}: {said}"
        return
    got = results(place / "out")
    if other := [name for name in wanted if got.get(name) != wanted[name]]:
        yield f"{what}: other bytes in {', '.join(other)}"
    if more := sorted(got.keys() - wanted.keys()):
        yield f"{what}: {', '.join(more)} is left beside the results"
    if left := left_over(place / "work"):
        yield f"{what}: {', '.join(left)} is left in the workdir"


def covered() -> set[str]:
    """The recovery steps that are registered and that no job has."""
    steps = {entry.name for entry in strategies() if entry.kind == "step" and entry.distribution == "lloydmax"}
    return {name for name in steps if not any(name in _names(job) for job in JOBS.values())}


def _names(job: Job) -> str:
    return " ".join(str(cell.cell_contents) for cell in getattr(job, "__closure__", None) or ())


def main(attacks: int, flipped: int) -> int:
    """Both kinds, in turns over all jobs; the number of problems."""
    torch.set_num_threads(1)
    total = 0
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        warm(Path(name) / "warm")
        for kind, times, jobs in (
            ("kills", attacks, list(JOBS)),
            ("flipped bits", flipped, [job for job in JOBS if job not in ("save", "export")]),
        ):
            started, done, problems = time.monotonic(), 0, 0
            for job in jobs:
                attack = kills if kind == "kills" else flips
                found = attack(job, -(-times // len(jobs)), Path(name) / kind / job, random.Random(job))
                done += found.attacks
                problems += len(found.problems)
                print(f"{kind}: {job}: {found.attacks}, {len(found.problems)} problems", file=sys.stderr, flush=True)
                for problem in found.problems[:5]:
                    print(f"  {problem}", file=sys.stderr, flush=True)
            minutes = (time.monotonic() - started) / 60
            print(f"| {kind} | {done:,} of {len(jobs)} jobs | {problems} | {minutes:.0f} min |", flush=True)
            total += problems
    return total


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    sys.exit(min(1, main(*(given + [300, 200][len(given) :]))))
