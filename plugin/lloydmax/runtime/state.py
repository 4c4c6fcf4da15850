"""State files of runs that go on after a kill, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import torch

from lloydmax.runtime import processes


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a state, whole or not at all; of several processes the first one does."""
    if not processes.writes():
        return
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        torch.save(state, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path | None) -> dict[str, Any] | None:
    """The state in a file; ``None`` where there is none that can be read."""
    if path is None or not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return None
    return state
