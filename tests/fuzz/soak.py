"""A soak test: many trials of each kind of recipe and host in one process, and what they leave behind.

    python tests/fuzz/soak.py                          # 1,000 trials of every kind; prints a Markdown table
    python tests/fuzz/soak.py 100 int8 inc             # 100 of some kinds
    python tests/fuzz/soak.py --list                   # the kinds

Every kind runs in a process of its own. Every trial has a network and data of its own, and of four trials one fails and
one is interrupted, each time elsewhere: in a forward pass, or where progress is told. What a trial leaves is counted
after a warm-up: resident memory, live Python objects, descriptors, threads, files in its folders and in the temporary
one, and networks that something still holds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from soak_kinds import FUSE, KINDS, Fault, Hearing, Trial, network, pictures
from torch import nn

WARM_UP = 12
"""Trials before anything is counted: imports, caches of torch and arenas of the allocator grow in them."""
MOST_MIB = 20.0
"""By which resident memory may grow over all trials after the warm-up."""
FEW_OBJECTS, EACH = 300, 5
"""Python objects that may be left of the last trials, and of each: a network has hundreds, with a graph thousands."""


@dataclass
class Left:
    """What the trials of one kind left behind, after the warm-up.

    Attributes:
        kind: its name.
        trials: after the warm-up.
        failed: trials that ended in an error, asked for.
        interrupted: trials that ended in a ``KeyboardInterrupt``, asked for.
        memory: growth of resident memory in MiB.
        peak: its growth at most after any trial, in MiB.
        objects: growth of Python objects that the garbage collector knows.
        networks: networks of the trials that are still alive.
        descriptors: growth of open files.
        threads: growth of threads.
        files: that are left in the folders of the trials and the temporary one.
        seconds: of all trials.
    """

    kind: str
    trials: int
    failed: int
    interrupted: int
    memory: float
    peak: float
    objects: int
    networks: int
    descriptors: int
    threads: int
    files: int
    seconds: float

    @property
    def grew(self) -> str | None:
        """What is wrong, in words; ``None`` where nothing is."""
        held = {"descriptors": self.descriptors, "threads": self.threads, "files": self.files}
        held["networks"] = self.networks if self.networks > 1 else 0  # the last one may be in a cache of the host
        wrong = [f"{number} {what}" for what, number in held.items() if number > 0]
        wrong += [f"{self.memory:.1f} MiB"] if self.memory > MOST_MIB else []
        wrong += [f"{self.objects} objects"] if self.objects > FEW_OBJECTS + EACH * self.trials else []
        return ", ".join(wrong) or None


def soak(name: str, trials: int, warm_up: int = WARM_UP) -> Left:
    """Run trials of one kind in this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place, temporary = Path(folder) / "place", Path(folder) / "tmp"
        place.mkdir(), temporary.mkdir()
        before_dir, tempfile.tempdir = tempfile.tempdir, str(temporary)
        try:
            return _soaked(name, trials, warm_up, place, temporary)
        finally:
            tempfile.tempdir = before_dir


def _soaked(name: str, trials: int, warm_up: int, place: Path, temporary: Path) -> Left:
    outcomes: Counter[str] = Counter()
    alive: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    _one(KINDS[name], 0, place, alive)
    places = FUSE.passed
    for number in range(warm_up):
        _tried(KINDS[name], number, places, place, outcomes, alive)
    outcomes.clear(), alive.clear()
    before, peak, start = _now((place, temporary)), 0.0, time.perf_counter()
    for number in range(warm_up, warm_up + trials):
        _tried(KINDS[name], number, places, place, outcomes, alive)
        peak = max(peak, _resident())
    seconds = time.perf_counter() - start
    after = _now((place, temporary))
    grown = {key: after[key] - before[key] for key in before}
    return Left(
        name, trials, outcomes["failed"], outcomes["interrupted"],
        round(grown["memory"], 1), round(peak - before["memory"], 1), int(grown["objects"]), len(alive),
        int(grown["descriptors"]), int(grown["threads"]), int(grown["files"]), round(seconds, 1),
    )  # fmt: skip


def _tried(
    trial: Trial, number: int, places: int, place: Path, outcomes: Counter[str], alive: weakref.WeakSet[nn.Module]
) -> None:
    """One trial: every fourth fails, every fourth is interrupted, somewhere."""
    error = (None, Fault, None, KeyboardInterrupt)[number % 4]
    at = 1 + number * 7919 % max(places, 1)
    try:
        _one(trial, number, place, alive, error and (at, error))
        outcomes["done"] += 1
    except KeyboardInterrupt:
        if error is not KeyboardInterrupt:
            raise
        outcomes["interrupted"] += 1
    except Exception:
        if error is None:
            raise
        outcomes["failed"] += 1
    if error is not None:  # what is left of a call of the host is the host's
        for left in [*place.rglob("*")][::-1]:
            if not left.name.startswith((".lloydmax", "lloydmax")):
                left.rmdir() if left.is_dir() else left.unlink()


def _one(
    trial: Trial,
    number: int,
    place: Path,
    alive: weakref.WeakSet[nn.Module],
    fault: tuple[int, type[BaseException]] | None = None,
) -> None:
    FUSE.set()
    net = network(number)
    FUSE.set(*fault or ())
    alive.add(net)
    made = trial(net, pictures(number), place, [Hearing()])
    if isinstance(model := getattr(made, "model", made), nn.Module):
        alive.add(model)


def _now(folders: tuple[Path, ...]) -> dict[str, float]:
    for _ in range(3):
        gc.collect()
    return {
        "objects": len(gc.get_objects()),
        "memory": _resident(),
        "descriptors": len([*Path("/proc/self").glob("fd/*")]),
        "threads": len([*Path("/proc/self").glob("task/*")]) or threading.active_count(),
        "files": len([file for folder in folders for file in folder.rglob("*")]),
    }


def _resident() -> float:
    """Resident memory in MiB; 0 where it cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def table(found: list[Left]) -> Iterator[str]:
    """Lines of a Markdown table."""
    counted = ["memory MiB", "at most MiB", "objects", "networks", "descriptors", "threads", "files", "s a trial"]
    yield f"| kind | trials | failed | interrupted | {' | '.join(counted)} |"
    yield "|---|" + "---:|" * 11
    for one in found:
        yield (
            f"| {one.kind} | {one.trials} | {one.failed} | {one.interrupted} | {one.memory:+.1f} | {one.peak:+.1f} | "
            f"{one.objects:+d} | {one.networks} | {one.descriptors:+d} | {one.threads:+d} | {one.files} | "
            f"{one.seconds / max(one.trials, 1):.3f} |"
        )


def main() -> int:
    """Arguments in, a table out; 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="?", type=int, default=1000, help="after the warm-up; default: 1000")
    parser.add_argument("kinds", nargs="*", help="default: all")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="trials that do not count")
    parser.add_argument("--list", action="store_true", help="print the kinds")
    parser.add_argument("--here", action="store_true", help="one kind, in this process; prints JSON")
    asked = parser.parse_args()
    if unknown := set(asked.kinds) - set(KINDS):
        parser.error(f"unknown kinds {', '.join(unknown)}; known: {', '.join(KINDS)}")
    if asked.list:
        print("\n".join(KINDS))
        return 0
    if asked.here:
        print(json.dumps(asdict(soak(asked.kinds[0], asked.trials, asked.warm_up))))
        return 0
    found, broken = [], []
    for name in asked.kinds or KINDS:
        command = [sys.executable, __file__, str(asked.trials), name, "--here"]
        ran = subprocess.run([*command, "--warm-up", str(asked.warm_up)], capture_output=True, text=True)
        try:
            found.append(Left(**json.loads(ran.stdout.splitlines()[-1])))
            print(*list(table(found))[-1:], sep="\n", file=sys.stderr, flush=True)
        except (ValueError, IndexError):
            broken.append(f"{name}: {ran.stderr.strip()}")
            print(broken[-1], file=sys.stderr, flush=True)
    print(*table(found), sep="\n")
    grew = [f"{one.kind}: {one.grew}" for one in found if one.grew]
    print(*grew, *broken, sep="\n", file=sys.stderr)
    return bool(grew or broken)


if __name__ == "__main__":
    sys.exit(main())
