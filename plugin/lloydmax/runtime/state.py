"""State files of runs that go on after a kill, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lloydmax.runtime import processes
from lloydmax.runtime.files import replacing


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a state, whole or not at all; of several processes the first one does."""
    if not processes.writes():
        return
    with replacing(path) as temporary:
        torch.save(state, temporary)


def read(path: Path | None) -> dict[str, Any] | None:
    """The state in a file; ``None`` where there is none that can be read."""
    if path is None or not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return None
    return state
