"""Locks: one works, the others are told and wait; a lock ends with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
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


@pytest.mark.parametrize("kind", ["link", "hard link", "loop", "nowhere", "pipe", "folder"])
def test_what_has_the_name_of_a_lock_is_left_alone(kind: str, tmp_path: Path) -> None:
    if kind == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes in folders here")
    lock, mine = tmp_path / "lock", tmp_path / "mine"
    mine.write_text("precious")
    make: dict[str, Callable[[], object]] = {
        "link": lambda: lock.symlink_to(mine),
        "hard link": lambda: lock.hardlink_to(mine),
        "loop": lambda: lock.symlink_to(lock),
        "nowhere": lambda: lock.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
    }
    make[kind]()
    with pytest.raises(OutputError, match=r"lock: the lock of the run cannot be made \(\w[^\n]*\)$"), locked(lock):
        pass
    assert mine.read_text() == "precious" and {one.name for one in tmp_path.iterdir()} == {"lock", "mine"}


def test_a_lock_without_room_is_told_and_not_left(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    ours = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, ours[1]))
    try:
        with pytest.raises(OutputError, match=r"lock: .*File too large.*make room$"), locked(tmp_path / "lock"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, ours)
    assert not list(tmp_path.iterdir())


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
