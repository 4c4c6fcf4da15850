"""Text and JSON files, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import secrets
from pathlib import Path
from typing import Any

_PLAIN_LIST = re.compile(r'\[\n([^\[\]{}"]*)\n\s*\]')


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) under a temporary name in the same folder, then rename it.

    Raises:
        OSError: the folder is missing or not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, data: Any) -> None:
    """Write :func:`plain` data as indented JSON, with lists of numbers on one line.

    Raises:
        OSError: see :func:`write_text`.
    """
    text = json.dumps(plain(data), indent=2, allow_nan=False)
    write_text(path, _PLAIN_LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")


def plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists; numbers that JSON cannot hold (infinite, NaN) become ``None``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
