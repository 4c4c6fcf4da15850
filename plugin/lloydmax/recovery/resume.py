"""What a killed run left in its ``workdir``: the student after every finished step, and a step that was under way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lloydmax.data import Source
from lloydmax.runtime.digest import fingerprint, model_fingerprint
from lloydmax.runtime.state import read, write

_SAMPLES = 8
"""First inputs whose values tell two sets of data apart."""


class KeptSteps:
    """The finished steps of one run.

    Args:
        workdir: where the state is kept; ``None``: nothing is.
        identity: everything that the result depends on; runs that differ in it do not see each other.
    """

    def __init__(self, workdir: Path | None, identity: Iterable[object]) -> None:
        digest = hashlib.blake2b("\n".join(map(str, identity)).encode(), digest_size=8).hexdigest()
        self.folder = None if workdir is None else workdir / f"compress-{digest}"
        if self.folder is not None:
            self.folder.mkdir(exist_ok=True)

    def part(self, number: int) -> Path | None:
        """The file in which step ``number`` may keep its own state while it is under way."""
        return None if self.folder is None else self.folder / f"step{number}-part.pt"

    def step(self, number: int, student: nn.Module, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``run`` gives (JSON-able), with what it does to the student; both are kept, and taken from there."""
        if self.folder is None:
            return run()
        whole = self.folder / f"step{number}.pt"
        if (kept := read(whole)) is not None:
            student.load_state_dict(kept["student"])
            found: dict[str, Any] = json.loads(kept["figures"])
            return found
        figures = run()
        write(whole, {"student": student.state_dict(), "figures": json.dumps(figures)})
        if (part := self.part(number)) is not None:
            part.unlink(missing_ok=True)
        return figures


def identity(model: nn.Module, sources: Iterable[Source | None]) -> list[object]:
    """What tells models and data apart: modules and values of the model; number and first values of the inputs."""
    told: list[object] = [torch.__version__, model_fingerprint(model).hex()]
    for source in sources:
        told.append(None if source is None else len(source))
        if source is not None and source.deterministic:
            for _, batch in source.batches(_SAMPLES, torch.arange(min(_SAMPLES, len(source)))):
                tensors = [x for x in (*batch.args, *batch.kwargs.values()) if isinstance(x, torch.Tensor)]
                told.append(fingerprint(tensors).hex())
    return told
