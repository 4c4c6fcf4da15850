"""Memory of this process, in MB; on Linux the peak can start again, elsewhere it is that of the whole process."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

PROCESS = Path("/proc/self")


def restart() -> None:
    """From here on, :func:`peak` counts anew."""
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")


def resident() -> float:
    """Now."""
    return _status("VmRSS")


def peak() -> float:
    """The highest since :func:`restart`."""
    return _status("VmHWM")


def _status(field: str) -> float:
    try:
        found = re.search(rf"{field}:\s*(\d+) kB", (PROCESS / "status").read_text())
    except OSError:
        found = None
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kilobytes = int(found[1]) if found else highest // (1024 if sys.platform == "darwin" else 1)
    return round(kilobytes / 1024, 1)
