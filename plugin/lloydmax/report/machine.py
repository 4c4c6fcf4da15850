"""Machine and versions, for people who compare figures."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from lloydmax.runtime.code import VERSION


def environment() -> dict[str, str]:
    """Machine and versions, in words."""
    return {
        "lloydmax": VERSION,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
