"""Locks: one works, the others are told and wait; a lock ends with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from lloydmax.errors import OutputError
from lloydmax.runtime.locks import locked

HOLDER = """
import os, sys, time
file = open(sys.argv[1], "a+b")
if os.name == "nt":
    import msvcrt
    file.seek(1 << 30)
    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl
    fcntl.flock(file, fcntl.LOCK_EX)
file.write(f"{os.getpid()}\\n".encode())
file.flush()
print("held", flush=True)
time.sleep(60)
"""
"""A process that holds a lock as we do, without the time that our imports take."""


def test_threads_take_turns_and_nothing_is_left(tmp_path: Path) -> None:
    inside, most, done = [], [], []

    def work() -> None:
        with warnings.catch_warnings(), locked(tmp_path / "lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()
        done.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1] * 6 and len(done) == 6 and not list(tmp_path.iterdir())


def test_a_thread_does_not_wait_for_itself(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        locked(lock),
        locked(tmp_path / "other"),
        pytest.raises(OutputError, match="within the same run"),
        locked(lock),
    ):
        pass
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock"):
        raise ZeroDivisionError
    with locked(tmp_path / "lock"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the lock of the run cannot be made"), locked(tmp_path / "missing" / "lock"):
        pass


def test_another_process_is_named_and_a_kill_frees_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        killer = threading.Timer(0.5, other.send_signal, [getattr(signal, "SIGKILL", signal.SIGTERM)])
        killer.start()
        started = time.monotonic()
        with pytest.warns(UserWarning, match=f"process {other.pid} works on the same run.*waiting"), locked(path):
            assert time.monotonic() - started > 0.4
            assert path.read_text(encoding="ascii") == f"{os.getpid()}\n"
    assert not path.exists()
