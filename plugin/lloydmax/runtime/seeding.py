"""The global random state during a run, also when several threads have runs at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class _Thread(threading.local):
    depth = 0


_lock, _thread = threading.Lock(), _Thread()
_running = 0
_outside: dict[int | None, Tensor] = {}


@contextmanager
def seeded(seed: int, model: nn.Module) -> Iterator[None]:
    """Global random state (dropout, user transforms) set from ``seed`` inside and restored outside.

    There is one global state for all threads. When runs overlap, the last one to end restores it, and what draws
    from it meanwhile is not reproducible; recovery steps draw from generators of their own.
    """
    global _running
    devices = {None, *(p.device.index or 0 for p in model.parameters() if p.device.type == "cuda")}
    with _lock:
        before = _states(devices)
        if _thread.depth == 0:
            _running += 1
            for device, state in before.items():
                _outside.setdefault(device, state)
        _thread.depth += 1
        torch.manual_seed(seed)
    try:
        yield
    finally:
        with _lock:
            _thread.depth -= 1
            if _thread.depth:
                _restore(before)
            else:
                _running -= 1
                if not _running:
                    _restore(_outside)
                    _outside.clear()


def _states(devices: Iterable[int | None]) -> dict[int | None, Tensor]:
    return {d: torch.get_rng_state() if d is None else torch.cuda.get_rng_state(d) for d in devices}


def _restore(states: Mapping[int | None, Tensor]) -> None:
    for device, state in states.items():
        if device is None:
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)
