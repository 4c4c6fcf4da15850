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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        return folder / "cells" / f"{self}.json".replace("/", "-")

    def model(self, folder: Path) -> Path:
        """Where lloydmax's file is kept, and beside it, as JSON, how it was made."""
        return folder / "files" / f"{self}.safetensors".replace("/", "-")


@dataclass(frozen=True)
class Settings:
    """What all cells share.

    Attributes:
        folder: of the results.
        teachers: of ``published/teachers.py``.
        threads: of torch.
        effort: of lloydmax's full recovery.
        device: where lloydmax's own cells and all networks run; the peers compress on the CPU.
    """

    folder: Path
    teachers: Path
    threads: int
    effort: str
    device: str = "cpu"


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
            store(key.file(settings.folder), measure(key, network, settings))
        except BaseException as failure:
            if not isinstance(failure, MissingPictures):
                traceback.print_exc()
            print(failure, file=sys.stderr, flush=True)
            os._exit(1)


def measure(key: Key, network: Network, settings: Settings) -> Result:
    """One cell, in this process.

    A file that lloydmax wrote already, here or on another machine, is measured as it is.

    Returns:
        ``figures``: ``bytes`` of the file, ``bits_per_weight`` (8 x bytes / parameters of the original), what
        :func:`quality` gives, ``seconds`` of CPU and ``wall`` seconds of the compression, and its peak ``memory`` in
        MB, of which ``memory_before`` were there when it began; or ``refused``: what the method said.
    """
    peer = peers.PEERS.get(key.method)
    device = "cpu" if peer else settings.device
    model, inputs = network.model().to(device), network.test()
    wanted = _teacher_outputs(key.network, model, inputs, settings.folder)
    result: Result = {
        "key": {"network": key.network, "method": key.method, "bits": str(key.target)},
        "parameters": scalars(model),
    }
    if peer:
        importlib.import_module(peer.module)
    try:
        if peer:
            with _watched(_environment(peer, device)) as made:
                packed = peers.compress(peer, model, key.target, inputs.batch(0, 2))
            student, left = installed(copy.deepcopy(model), packed), packed.left
            size, how = packed.bytes, packed.how
        else:
            file = key.model(settings.folder)
            made = _made(key, network, model, settings, file)
            student, left = ours.loaded(model, file)
            size, how = file.stat().st_size, "the file, codes entropy coded, float16 for the rest"
    except Exception as refusal:
        if not peer and not isinstance(refusal, RuntimeError):
            raise
        refused = f"{type(refusal).__name__}: {refusal}"[:2000]
        return {**result, "environment": _environment(peer, device), "refused": refused}
    figures = made.pop("figures") | {
        "bytes": size,
        "bits_per_weight": round(8 * size / scalars(model), 4),
        **quality(outputs(student, inputs), wanted, network.labels(), network.sentences),
    }
    return {**result, **made, "figures": figures, "how": how, "left_float": left}


def _made(key: Key, network: Network, model: nn.Module, settings: Settings, file: Path) -> Result:
    """How lloydmax's file was made, which it is where it is not there yet."""
    told = file.with_suffix(".json")
    if not (file.exists() and told.exists()):
        file.parent.mkdir(parents=True, exist_ok=True)
        with _watched(_environment(None, settings.device)) as made:
            ours.compress(key.method, network, model, key.target, settings.effort, file)
        store(told, made | ({"effort": settings.effort} if key.method in LATE else {}))
    result: Result = json.loads(told.read_text("utf-8"))
    return result


@contextmanager
def _watched(environment: dict[str, str]) -> Iterator[Result]:
    """Takes the time and memory of what happens inside."""
    result: Result = {"environment": environment}
    restart()
    before, wall, cpu = resident(), time.perf_counter(), time.process_time()
    yield result
    result["figures"] = {
        "seconds": round(time.process_time() - cpu, 2),
        "wall": round(time.perf_counter() - wall, 2),
        "memory": peak(),
        "memory_before": before,
    }


def store(path: Path, result: Result) -> None:
    """Keep a result."""
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


def _environment(peer: peers.Peer | None, device: str) -> dict[str, str]:
    version = {peer.distribution: importlib.metadata.version(peer.distribution)} if peer else {}
    named = {"device": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {}
    return environment() | named | version
