"""Work that changes what all threads of a process see, done where no other thread sees it.

``torch.export`` and what is built on it patch ``nn.Module`` and switch kernels off for the whole process while they
run: what another thread computes meanwhile can come out different. Where other threads are alive, such work is done in
a forked child.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from lloydmax.runtime.seeding import untouched

T = TypeVar("T")
STILL = 30.0
"""Seconds without any use of a processor after which a child is taken to be stuck: a lock of another thread may have
been held when it was forked."""
_CHILDREN = 2
"""Children that are tried before the work is done in this process."""
_turn = threading.RLock()


def apart(work: Callable[[], T]) -> T:
    """What ``work`` returns, or raises; it can be pickled.

    Alone in the process, on systems without ``fork``, and once CUDA is in use, it is done in this process.
    """
    with _turn:
        if threading.active_count() > 1 and sys.platform == "linux" and not torch.cuda.is_initialized():
            for _ in range(_CHILDREN):
                if (answer := _answer(work)) is not None:
                    done, value = pickle.loads(answer)
                    if done:
                        return value
                    raise value
        with untouched():
            return work()


def _answer(work: Callable[[], object]) -> bytes | None:
    """What a child says: pickled, whether it is done, and the result or the error; ``None``: it says nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _child(work, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            return pipe.read() or None if _speaks(child, pipe.fileno()) else None
    finally:
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _child(work: Callable[[], object], writing: int) -> None:
    """Do the work and end, without the rest of the program."""
    try:
        torch.set_num_threads(1)  # the threads of a pool are not forked
        try:
            said = True, work()
        except BaseException as error:
            said = False, error
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(pickle.dumps(said))
    finally:
        os._exit(0)


def _speaks(child: int, pipe: int) -> bool:
    """Wait for a child to answer; whether it did, or else is stuck."""
    used = _processor_time(child)
    while not select.select([pipe], [], [], STILL)[0]:
        before, used = used, _processor_time(child)
        if used == before:
            return False
    return True


def _processor_time(child: int) -> str:
    """Of the child and its own children, in ticks, as the kernel writes it."""
    return " ".join(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:15])
