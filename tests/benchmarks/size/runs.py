"""Cells of the evidence: one network, one method, one size, in a process of its own, kept as a JSON file."""

from __future__ import annotations

import copy
import fnmatch
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lloydmax.report import environment
from published.pictures import MissingPictures
from torch import Tensor, nn

from size import ours, peers
from size.memory import peak, resident, restart
from size.networks import Network, Prepared, outputs, quality
from size.packing import installed, scalars
from size.target import Target

METHODS = ours.LEVELS | {name: peer.title for name, peer in peers.PEERS.items()}
"""Method -> title, in the order of the tables."""
LATE = ("lloydmax-full",)
"""Methods that run last."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """What identifies a cell."""

    network: str
    method: str
    target: Target

    def __str__(self) -> str:
        return f"{self.network}/{self.method}/{self.target}"

    def file(self, folder: Path) -> Path:
        """Where the cell is kept."""
        return folder / "cells" / f"{self.network}-{self.method}-{self.target}.json"


@dataclass(frozen=True)
class Settings:
    """What all cells share.

    Attributes:
        folder: of the results.
        teachers: of ``published/teachers.py``.
        threads: of torch.
        effort: of lloydmax's full recovery.
    """

    folder: Path
    teachers: Path
    threads: int
    effort: str


def keys(known: Mapping[str, Network], chosen: Mapping[str, Sequence[str]]) -> list[Key]:
    """The cells that are asked for, by network in the order given, methods that train last.

    Args:
        known: the networks.
        chosen: ``network``, ``method``, ``bits`` -> globs, any of which may match; none: everything.
    """

    def wanted(kind: str, text: str) -> bool:
        return not chosen[kind] or any(fnmatch.fnmatchcase(text, pattern) for pattern in chosen[kind])

    return [
        Key(network, method, target)
        for late in (False, True)
        for network in known
        for method in METHODS
        for target in _targets(method, known[network])
        if (method in LATE) == late
        and wanted("network", network)
        and wanted("method", method)
        and wanted("bits", str(target))
    ]


def _targets(method: str, network: Network) -> list[Target]:
    peer = peers.PEERS.get(method)
    codes = [Target(bits) for bits in (peer.bits if peer else peers.BITS)]
    return codes + [Target(round(bits, 3), file=True) for bits in network.sizes]


def load(folder: Path) -> list[Result]:
    """All finished cells."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((folder / "cells").glob("*.json"))]


def run(key: Key, network: Network, settings: Settings) -> str:
    """Run a cell in a process of its own, a fork of this one; what came of it in one line.

    What the cell prints goes to ``logs`` in the folder.
    """
    log = settings.folder / "logs" / f"{key.file(settings.folder).stem}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_one, args=(key, network, settings, log))
    process.start()
    process.join()
    if process.exitcode:
        said = log.read_text("utf-8", errors="replace").strip().splitlines()
        return f"not run: {said[-1] if said else f'exit status {process.exitcode}'}"
    return summary(json.loads(key.file(settings.folder).read_text("utf-8")))


def _one(key: Key, network: Network, settings: Settings, log: Path) -> None:
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
        torch.set_num_threads(settings.threads)
        try:
            store(key, settings.folder, measure(key, network, settings))
        except BaseException as failure:
            if not isinstance(failure, MissingPictures):
                traceback.print_exc()
            print(failure, file=sys.stderr, flush=True)
            os._exit(1)


def measure(key: Key, network: Network, settings: Settings) -> Result:
    """One cell, in this process.

    Returns:
        ``figures``: ``bytes`` of the file, ``bits_per_weight`` (8 x bytes / parameters of the original), what
        :func:`quality` gives, ``seconds`` of CPU and ``wall`` seconds of the compression, and its peak ``memory`` in
        MB, of which ``memory_before`` were there when it began; or ``refused``: what the method said.
    """
    model, inputs = network.model(), network.test()
    wanted = _teacher_outputs(key.network, model, inputs, settings.folder)
    peer = peers.PEERS.get(key.method)
    result: Result = {
        "key": {"network": key.network, "method": key.method, "bits": str(key.target)},
        "environment": _environment(peer),
        "parameters": scalars(model),
    }
    if key.method in LATE:
        result["effort"] = settings.effort
    if peer:
        importlib.import_module(peer.module)
    restart()
    before, wall, cpu = resident(), time.perf_counter(), time.process_time()
    try:
        if peer:
            packed = peers.compress(peer, model, key.target, inputs.batch(0, 2))
            size, how, left = packed.bytes, packed.how, packed.left
        else:
            student, size, how, left = ours.compress(key.method, network, model, key.target, settings.effort)
    except Exception as refusal:
        if not peer and not isinstance(refusal, RuntimeError):
            raise
        return {**result, "refused": f"{type(refusal).__name__}: {refusal}"[:2000]}
    figures = {
        "seconds": round(time.process_time() - cpu, 2),
        "wall": round(time.perf_counter() - wall, 2),
        "memory": peak(),
        "memory_before": before,
    }
    if peer:
        student = installed(copy.deepcopy(model), packed)
    figures |= {
        "bytes": size,
        "bits_per_weight": round(8 * size / scalars(model), 4),
        **quality(outputs(student, inputs), wanted, network.labels(), network.sentences),
    }
    return {**result, "figures": figures, "how": how, "left_float": left}


def store(key: Key, folder: Path, result: Result) -> None:
    """Keep a cell."""
    path = key.file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def summary(result: Result) -> str:
    """One line."""
    if "refused" in result:
        return f"refused: {result['refused'].splitlines()[0][:150]}"
    return ", ".join(f"{name} {round(value, 4)}" for name, value in result["figures"].items())


def _teacher_outputs(name: str, model: nn.Module, inputs: Prepared, folder: Path) -> Tensor:
    path = folder / "outputs" / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".part").open("wb") as file:
            np.save(file, outputs(model, inputs).numpy())
        path.with_suffix(".part").replace(path)
    return torch.from_numpy(np.load(path))


def _environment(peer: peers.Peer | None) -> dict[str, str]:
    version = {peer.distribution: importlib.metadata.version(peer.distribution)} if peer else {}
    return environment() | version
