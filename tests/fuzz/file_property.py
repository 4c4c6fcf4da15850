"""What every file must do to whoever opens it, well meant or not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import golden_files
import lloydmax
import numpy as np
import standalone_reader
import torch
from golden_models import CASES
from timing import seconds_of
from torch import nn

FREE = 16 << 20
"""Bytes that any file may cost, beside those of its tensors."""
TIMES = 4
"""How often the memory of the tensors and the free bytes may be taken."""
SECONDS_A_BYTE, SECONDS = 50e-9, 1.0
"""Of a core, for each byte of the file and of the model, and for any file."""
READ_ALONE = 1 << 26
"""Bytes up to which the stand-alone reader, which trusts, is asked, too."""


@dataclass
class Outcome:
    """What came of one file.

    Attributes:
        refused: the reason, of the last one to refuse it; empty where it was loaded.
        problems: what must not be.
        seconds, mebibytes: the most that one call took.
    """

    refused: str = ""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    mebibytes: float = 0.0


class Target:
    """A model to load files into, as long as they are refused."""

    def __init__(self, name: str) -> None:
        self._case = CASES[name]
        with suppress(lloydmax.CheckpointError):  # a machine without int8 kernels
            lloydmax.load(golden_files.GOLDEN / f"{name}.safetensors", self._case.fresh())  # now all is imported
        self.renew()

    def renew(self) -> None:
        """A fresh model."""
        torch.manual_seed(3)
        self.model = self._case.fresh().train()
        self.bytes = sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers()))
        self._before = _everything(self.model)

    def is_unchanged(self) -> bool:
        return _everything(self.model) == self._before


def _everything(model: nn.Module) -> list[Any]:
    found: list[Any] = []
    for name, module in model.named_modules(remove_duplicate=False):
        found.append((name, id(module), type(module), module.training, sorted(vars(module))))
        for tensors in (module._parameters, module._buffers):
            for leaf, tensor in tensors.items():
                if tensor is not None:
                    data = tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
                    found.append((leaf, id(tensor), tensor.data_ptr(), tensor.shape, tensor.requires_grad, data))
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            found.append(repr(module.get_extra_state()))
    return found


def opened(path: Path, target: Target) -> Outcome:
    """Inspect, verify and load a file, and tell what is wrong with how they take it."""
    outcome, size, looks = Outcome(), path.stat().st_size, dict[str, Any]()
    for use in (lloydmax.inspect, lloydmax.verify):
        looks[use.__name__] = _try(use.__name__, partial(use, path), path, size, outcome)
    inspected, verified = looks["inspect"], looks["verify"]
    if inspected is not None:
        _show(inspected, outcome)
    loaded = _try("load", partial(lloydmax.load, path, target.model), path, size + target.bytes, outcome)
    if loaded is None and not target.is_unchanged():
        outcome.problems.append("load: a refused file changed the model")
    if (verified and not inspected) or (loaded is not None and not verified):
        outcome.problems.append("inspect, verify and load disagree")
    if verified and verified.decoded <= READ_ALONE:
        _compare(path, loaded, outcome)
    if loaded is not None or not target.is_unchanged():
        target.renew()
        outcome.refused = outcome.refused if loaded is None else ""
    return outcome


def _try(what: str, call: Callable[[], Any], path: Path, needed: int, outcome: Outcome) -> Any:
    """What a call gives, or ``None``; it needs so many bytes, of the file and of the model."""
    found, enough = list[Any](), SECONDS + SECONDS_A_BYTE * needed

    def attempt() -> None:
        found.clear()
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    with peak() as taken:
        seconds = seconds_of(attempt, enough)
    result = None if isinstance(found[0], Exception) else found[0]
    if isinstance(found[0], lloydmax.CheckpointError):
        message = str(found[0])
        outcome.refused = message.removeprefix(f"{path}: ")
        if not message.startswith(f"{path}: ") or not message.isprintable() or len(message) > 2000:
            outcome.problems.append(f"{what}: says {message!r}")
    elif isinstance(found[0], Exception):
        outcome.refused = f"{type(found[0]).__name__}: {found[0]}"
        outcome.problems.append(f"{what}: {outcome.refused}"[:300])
    if seconds > enough:
        outcome.problems.append(f"{what}: takes {seconds:.1f} s")
    if taken and taken[0] > TIMES * (needed + FREE):
        outcome.problems.append(f"{what}: takes {taken[0] / 2**20:.0f} MiB")
    outcome.seconds = max(outcome.seconds, seconds)
    outcome.mebibytes = max([outcome.mebibytes, *(item / 2**20 for item in taken)])
    return result


def _show(found: Any, outcome: Outcome) -> None:
    try:
        shown = str(found)
        json.dumps(found.to_dict(), allow_nan=False)
    except Exception as error:
        outcome.problems.append(f"inspect: cannot be shown: {type(error).__name__}: {error}"[:300])
        return
    if not all(line.isprintable() for line in shown.split("\n")):
        outcome.problems.append("inspect: shows control characters")


def _compare(path: Path, loaded: Any, outcome: Outcome) -> None:
    try:
        alone = standalone_reader.read(path)
        found = standalone_reader.digests(path)
    except Exception as error:
        outcome.problems.append(f"the stand-alone reader refuses it: {type(error).__name__}: {error}"[:300])
        return
    try:
        expected = found if loaded is None else golden_files.digests(loaded)
    except Exception as error:
        outcome.problems.append(f"the loaded model is broken: {type(error).__name__}: {error}"[:300])
        return
    for name in expected.keys() | found.keys():
        widened = name in alone and alone[name].dtype == "F32" and bool(np.isnan(alone[name].array).any())
        if expected.get(name) != found.get(name) and not widened:  # a NaN that is widened has whatever payload
            outcome.problems.append(f"the stand-alone reader reads another {name!r}")


@contextmanager
def peak() -> Iterator[list[int]]:
    """Most memory that a block takes beside what was resident before, in bytes; nothing where no system tells."""
    taken: list[int] = []
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except OSError:
        yield taken
        return
    yield taken
    taken.append(max(0, _status("VmHWM") - before))


def _status(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def kind(reason: str) -> str:
    """A reason without what is particular to one file."""
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)", "_", reason)
    return re.sub(r"\d+", "9", plain)[:60]
