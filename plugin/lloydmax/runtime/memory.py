"""How much memory is in use, and how much there is; what is free goes back to the system."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

_USUAL = 1 << 29
"""Bytes of Python and torch, where the system does not tell."""


_KEPT = 1 << 23
"""Bytes that may be kept: to give them back, and to get them again, takes longer than small networks do."""
_least: int | None = None
"""Resident memory when something was given back last, or less."""


def give_back() -> None:
    """Give the system what the C library keeps of freed memory, once the process has grown by :data:`_KEPT`."""
    global _least
    now = _resident()
    if now is None or _least is None or now - _least >= _KEPT:
        _trim()
        _least = _resident()
    else:
        _least = min(_least, now)


def _trim() -> None:
    """Only GNU's library keeps much, and only that can be asked."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def in_use(device: torch.device) -> int:
    """Bytes that this process needs now: on a CUDA device what torch has allocated there, else its resident memory,
    after what is free in it was given back."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    _trim()
    if (resident := _resident()) is not None:
        return resident
    with suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return _USUAL


def there_is(device: torch.device) -> int | None:
    """Bytes that a CUDA device has, or this machine (of what its control group may have); ``None``: it is not told."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    found = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(found, default=None)
