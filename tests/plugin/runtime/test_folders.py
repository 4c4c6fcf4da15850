"""Folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from lloydmax.errors import OutputError
from lloydmax.runtime.folders import check_new_folder, new_folder


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        (folder / "file").write_text("there")
        assert not out.exists()
    assert (out / "file").read_text() == "there"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"), new_folder(tmp_path / "out") as folder:
        (folder / "file").touch()
        raise RuntimeError("on purpose")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_others_are_left(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "file").touch()
    assert (tmp_path / "empty" / "file").is_file()
    for path, said in ((tmp_path / "empty", "is not empty"), (tmp_path / "empty" / "file", "is a file")):
        with pytest.raises(OutputError, match=said):
            check_new_folder(path)
