"""Runs that end at a write, or find a flipped bit, go on and end in the same bytes; the long run is ``kill.py``."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from pathlib import Path

import kill
import pytest


class Killed(BaseException):
    pass


def _run(job: str, place: Path) -> tuple[dict[str, bytes], str]:
    """Results, and what was told."""
    for folder in (place / "work", place / "out"):
        folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kill.JOBS[job](place / "work", place / "out")
    return kill.results(place / "out"), "\n".join(str(warning.message) for warning in told)


def _end_at_write(number: int, job: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until that flush of a file to the disk."""
    left, flush = [number], os.fsync

    def fsync(file: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed
        flush(file)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "fsync", fsync)
        _run(job, place)


def test_every_recovery_step_is_attacked() -> None:
    assert not kill.covered()


def test_each_kind_counts_its_own_problems(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kill, "warm", lambda _: None)
    monkeypatch.setattr(kill, "kills", lambda *_: kill.Found(1, ["odd"]))
    monkeypatch.setattr(kill, "flips", lambda *_: kill.Found(1, []))
    assert kill.main(1, 1) == len(kill.JOBS)
    assert [line.split(" | ")[2] for line in capsys.readouterr().out.splitlines()] == [str(len(kill.JOBS)), "0"]


@pytest.mark.parametrize(("job", "writes"), [("distill", (2, 8)), ("distill, codes", (14,)), ("sweep", (9,))])
def test_a_run_that_ends_at_a_write_goes_on(
    job: str, writes: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = _run(job, tmp_path / "whole")
    for number in writes:
        place = tmp_path / str(number)
        _end_at_write(number, job, place, monkeypatch)
        found, told = _run(job, place)
        assert found == wanted and "set aside" not in told and not kill.left_over(place / "work")


def test_flipped_bits_are_told_and_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, job = random.Random(0), "distill"
    wanted, _ = _run(job, tmp_path / "whole")
    _end_at_write(9, job, tmp_path / "part", monkeypatch)
    for number, stage in enumerate(("whole", "whole", "part", "part", "part")):
        place = tmp_path / str(number)
        shutil.copytree(tmp_path / stage, place)
        file = draw.choice(kill.state_files(place / "work"))
        content = bytearray(file.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        found, told = _run(job, place)
        assert found == wanted and f"{file.name}: " in told and "set aside" in told
