"""Temporary files and folders: those of killed runs go away, those of living ones stay."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lloydmax.runtime.temporary import TemporaryFolder, beside, sweep

pytest.importorskip("fcntl")
HOLDING = """
import sys, time
from lloydmax.runtime.temporary import TemporaryFolder
folder = TemporaryFolder(sys.argv[1])
(folder.path / "large.bin").write_bytes(b"x")
print(folder.path, flush=True)
time.sleep(60)
"""


def started(place: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_goes_with_its_object(tmp_path: Path) -> None:
    folder = TemporaryFolder(tmp_path)
    (folder.path / "a").write_text("a")
    opened = len([*Path("/proc/self").glob("fd/*")])
    path = folder.path
    del folder
    gc.collect()
    assert not path.exists() and not [*tmp_path.iterdir()]
    assert len([*Path("/proc/self").glob("fd/*")]) < opened or sys.platform != "linux"
    twice = TemporaryFolder(tmp_path)
    twice.remove(), twice.remove()
    assert not [*tmp_path.iterdir()]


def test_a_folder_of_a_living_process_stays_and_of_a_killed_one_goes(tmp_path: Path) -> None:
    process, left = started(tmp_path)
    try:
        os.utime(left, (0, 0))  # however old it is
        sweep(tmp_path)
        TemporaryFolder(tmp_path)
        assert (left / "large.bin").exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert left.exists()
    other = TemporaryFolder(tmp_path)
    assert [*tmp_path.iterdir()] == [other.path]


def test_what_has_no_lock_goes_by_age(tmp_path: Path) -> None:
    fresh, old, foreign = beside(tmp_path), beside(tmp_path), tmp_path / "lloydmax-mine"
    for place in (fresh, old, foreign):
        place.mkdir()
        (place / "a").write_text("a")
    for place in (old, foreign):
        os.utime(place, (0, 0))
    sweep(tmp_path)
    assert {*tmp_path.iterdir()} == {fresh, foreign}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_text("a")
    link = beside(tmp_path)
    link.symlink_to(tmp_path / "kept")
    os.utime(link, (0, 0), follow_symlinks=False)
    sweep(tmp_path)
    assert (tmp_path / "kept" / "a").exists() and not link.is_symlink()


def test_a_link_in_place_of_a_lock_is_not_opened(tmp_path: Path) -> None:
    fresh = beside(tmp_path)
    fresh.mkdir()
    (tmp_path / "mine").write_text("a")
    (fresh / "lock").symlink_to(tmp_path / "mine")
    sweep(tmp_path)
    assert fresh.exists() and (tmp_path / "mine").exists(), "that nobody holds it tells nothing"


def test_a_fork_leaves_the_folder_of_its_parent(tmp_path: Path) -> None:
    folder = TemporaryFolder(tmp_path)
    child = os.fork()
    if not child:
        folder.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.path.exists()
    sweep(tmp_path)
    assert folder.path.exists(), "its lock is still held"
