"""Modes that see every operation of a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def seen_by(mode: TorchDispatchMode) -> Iterator[None]:
    """A mode for the time of a block; it is off afterwards, also where an interruption comes while it is put on."""
    depth = torch._C._len_torch_dispatch_stack()
    try:
        with mode:
            yield
    finally:
        while torch._C._len_torch_dispatch_stack() > depth:
            torch._C._pop_torch_dispatch_stack()
