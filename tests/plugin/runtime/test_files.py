"""Files and folders to write: what can be told before there is anything to write, and that nothing is left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lloydmax import LloydmaxError, OutputError
from lloydmax.runtime.files import check_room, check_writable, made_folder, refusal, replacing, write_text


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (lambda base: base, "is a directory"),
        (lambda base: base / "no" / "m", "folder .*no does not exist"),
        (lambda base: base / "file" / "m", "does not exist|[Nn]ot a directory"),
        (lambda base: base / ("n" * 300), "too long"),
        (lambda base: f"{base}/new/", "a folder's name"),
        (lambda base: "", "a folder's name"),
        (lambda base: f"{base}/a\0b", "null"),
        (lambda base: base / "loop", "[Tt]oo many|symbolic link|loop"),
        (lambda base: base / "pipe", "not an ordinary file"),
        (lambda base: base / "lost", "folder .* does not exist"),
    ],
)
def test_places_where_nothing_can_be_written(place: Callable[[Path], str | Path], reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "lost").symlink_to(tmp_path / "gone" / "m")
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=reason) as caught:
        check_writable(place(tmp_path))
    assert isinstance(caught.value, LloydmaxError) and "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_places_where_something_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "new")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "new", tmp_path / "file", tmp_path / "link", "relative", tmp_path / "without suffix"):
        assert refusal(path) is None
    assert refusal(tmp_path, folder=True) is None
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "file").read_text() == "old"


def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, exist_ok: bool = True) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match=r"no file can be made in .* \(Permission denied\)"):
        check_writable(tmp_path / "m")
    with pytest.raises(OutputError, match="Permission denied"):
        made_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_room_on_the_disk(tmp_path: Path) -> None:
    check_room(tmp_path / "m", 1)
    with pytest.raises(OutputError, match=r"m: the file will have 1000000\.00 GB, but .* GB free"):
        check_room(tmp_path / "m", 10**15)


def test_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert made_folder(tmp_path / "a" / "b").is_dir() and made_folder(str(tmp_path / "a")).is_dir()
    made_folder(tmp_path / "c" / "d", keep=False)
    for path in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / ("n" * 300) / "a"):
        with pytest.raises(OutputError):
            made_folder(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a", "file"]


def test_a_text_goes_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "text")
    write_text(tmp_path / "link", "said")
    assert (tmp_path / "text").read_text() == "said" and (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_what_killed_runs_left_is_removed_after_a_day_and_not_before(tmp_path: Path) -> None:
    old, fresh, foreign = (tmp_path / name for name in (".lloydmax-0a.tmp", ".lloydmax-0b.tmp", ".other.tmp"))
    for left in (old, fresh, foreign):
        left.touch()
    folder = tmp_path / ".lloydmax-0c.tmp"
    folder.mkdir()
    (folder / "half").touch()
    os.utime(folder, times=(0, 0))
    os.utime(old, times=(0, time.time() - 25 * 3600))
    os.utime(foreign, times=(0, 0))
    write_text(tmp_path / "new.txt", "text")
    assert sorted(place.name for place in tmp_path.iterdir()) == [".lloydmax-0b.tmp", ".other.tmp", "new.txt"]


def test_a_replacement_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("before")
    with pytest.raises(KeyboardInterrupt), replacing(kept) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [place.name for place in tmp_path.iterdir()] == ["kept.txt"]
    assert kept.read_text() == "before"
