"""Cells of the evidence: one network, one method, one number of bits, in a process of its own, kept as a JSON file."""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import importlib
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lloydmax.report import environment
from torch import Tensor

from size import ours
from size.networks import Network, networks, outputs, quality
from size.packing import installed, scalars
from size.peers import BITS, PEERS

METHODS = {name: peer.title for name, peer in PEERS.items()} | {name: title for name, (_, title) in ours.LEVELS.items()}
"""Method -> title, in the order of the tables."""
LATE = ("lloydmax-full",)
"""Methods that run last."""


@dataclass(frozen=True)
class Key:
    """What identifies a cell."""

    network: str
    method: str
    bits: int

    def __str__(self) -> str:
        return f"{self.network}/{self.method}/{self.bits}"

    @classmethod
    def read(cls, text: str) -> Key:
        """From ``NETWORK/METHOD/BITS``."""
        network, method, bits = text.split("/")
        return cls(network, method, int(bits))

    def file(self, folder: Path) -> Path:
        """Where the cell is kept."""
        return folder / "cells" / f"{self.network}-{self.method}-{self.bits}.json"


def keys(names: list[str], patterns: list[str]) -> list[Key]:
    """The cells that a pattern ``NETWORK/METHOD/BITS`` matches (parts from the right may be left out), methods that
    need no training first."""
    order = sorted(METHODS, key=lambda method: method in LATE)
    found = [
        Key(network, method, bits)
        for late in (False, True)
        for bits in BITS
        for network in names
        for method in order
        if (method in LATE) == late and bits in (PEERS[method].bits if method in PEERS else BITS)
    ]
    full = [pattern + "/*" * (2 - pattern.count("/")) for pattern in patterns] or ["*/*/*"]
    return [key for key in found if any(fnmatch.fnmatchcase(str(key), pattern) for pattern in full)]


def load(folder: Path) -> list[dict[str, Any]]:
    """All finished cells."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((folder / "cells").glob("*.json"))]


def run(script: str, key: Key, folder: Path, teachers: Path, threads: int) -> str:
    """Run a cell in a process of its own; what it said in one line."""
    command = [sys.executable, script, "--cell", str(key), "--folder", str(folder), "--teachers", str(teachers)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, env=env)
    if done.returncode == 0:
        return done.stdout.strip().splitlines()[-1]
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return f"not run: {lines[-1]}"


def measure(key: Key, folder: Path, teachers: Path) -> dict[str, Any]:
    """One cell, in this process.

    Returns:
        ``figures``: ``bytes`` of the file, ``bits_per_weight`` of every parameter of the original, what
        :func:`quality` gives, ``seconds`` of CPU for the compression, ``memory`` in MB, the highest of the process up
        to its end, and ``memory_before``, with the teacher and all libraries loaded; or ``refused``: what the peer said.
    """
    network = networks(folder, teachers)[key.network]
    model, inputs = network.model(), network.test()
    wanted = _teacher_outputs(key.network, network, model, inputs, folder)
    result: dict[str, Any] = {"key": asdict(key), "title": METHODS[key.method], "environment": _environment(key)}
    if key.method in PEERS:
        with _quiet():
            importlib.import_module(PEERS[key.method].module)
    before, started = _memory(), time.process_time()
    try:
        with _quiet():
            if key.method in PEERS:
                packed = PEERS[key.method].run(copy.deepcopy(model), key.bits, inputs.batch(0, 2))
                size, how, left = packed.bytes, packed.how, packed.left
            else:
                level = ours.LEVELS[key.method][0]
                student, size, how = ours.compress(key.network, network, model, key.bits, level)
                left = []
    except Exception as refusal:
        if key.method not in PEERS:
            raise
        return {**result, "refused": f"{type(refusal).__name__}: {refusal}"[:2000]}
    seconds, memory = time.process_time() - started, _memory()
    if key.method in PEERS:
        student = installed(copy.deepcopy(model), packed)
    original = sum(parameter.numel() for parameter in model.parameters())
    figures = {
        "bytes": size,
        "bits_per_weight": round(8 * size / scalars(model), 4),
        **quality(outputs(student, inputs), wanted, network.labels(), network.sentences),
        "seconds": round(seconds, 2),
        "memory": memory,
        "memory_before": before,
    }
    return {**result, "figures": figures, "how": how, "left_float": left, "parameters": original}


def store(key: Key, folder: Path, result: dict[str, Any]) -> None:
    """Keep a cell."""
    path = key.file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def summary(result: dict[str, Any]) -> str:
    """One line."""
    if "refused" in result:
        return f"refused: {result['refused'].splitlines()[0][:150]}"
    return ", ".join(f"{name} {round(value, 4)}" for name, value in result["figures"].items())


def _teacher_outputs(name: str, network: Network, model: torch.nn.Module, inputs: Any, folder: Path) -> Tensor:
    path = folder / "outputs" / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".part").open("wb") as file:
            np.save(file, outputs(model, inputs).numpy())
        path.with_suffix(".part").replace(path)
    return torch.from_numpy(np.load(path))


def _environment(key: Key) -> dict[str, str]:
    name = PEERS[key.method].distribution if key.method in PEERS else "lloydmax"
    return {**environment(), name: importlib.metadata.version(name), "threads": str(torch.get_num_threads())}


def _memory() -> float:
    """The highest of this process so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What peers print goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
