"""Full disks: one line that says what could not be written, what was there before, no rest, and a living process."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import disk
import lloydmax
import pytest
import torch
from lloydmax.errors import CheckpointError, ExportError, OutputError
from lloydmax.runtime import files
from lloydmax.runtime.mapped import Mapped
from odd_models import net

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX's")
RECIPE = {"version": 1, "quantize": [{"layers": "all", "centroids": 4}]}
X = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
EXPECTED = {
    "a.safetensors": "CheckpointError",
    "b.safetensors": "CheckpointError",
    "a.pt2": "ExportError",
    "a.yaml": "OutputError",
    "report.json": "OutputError",
    "sweep.json": "OutputError",
    "search.json": "OutputError",
    "outputs": "OutputError",
    "inputs": "DataError",
}


def test_no_file_can_grow(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, disk.__file__, tmp_path], capture_output=True, timeout=300)
    assert child.returncode == 0, child.stderr.decode()
    found = pickle.loads(child.stdout)
    assert {name: error for name, (error, *_) in found.items()} == EXPECTED
    for name, (_, message, kept, left) in found.items():
        assert "File too large" in message and name in message and len(message.splitlines()) == 1, message
        assert kept == "old" and not left, (name, kept, left)


@pytest.fixture
def student() -> torch.nn.Module:
    return lloydmax.compress(net(), RECIPE, progress=False).model


def test_what_is_needed_and_what_is_free_is_said(
    student: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=7))
    for write in (
        lambda path: lloydmax.save(student, path),
        lloydmax.Recipe.load(RECIPE).save,
        lambda path: files.write_bytes(path, b"12345678"),
    ):
        with pytest.raises((CheckpointError, OutputError), match=r"the file will have \d.* B, but .* has 7 B free"):
            write(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def failing(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EROFS, errno.EIO])
def test_a_move_that_fails(
    number: int, student: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, exported = tmp_path / "a.safetensors", tmp_path / "a.pt2"
    path.write_text("old")
    exported.write_text("old")
    monkeypatch.setattr(Path, "replace", failing(number))
    with pytest.raises(CheckpointError, match=os.strerror(number)):
        lloydmax.save(student, path)
    if number == errno.ENOSPC:
        with pytest.raises(ExportError, match="No space left on device .* free in"):
            lloydmax.export(student, exported, example_inputs=X)
    monkeypatch.undo()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.pt2", "a.safetensors"]
    assert path.read_text() == exported.read_text() == "old"


def test_what_lies_beside_an_exported_file_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lloydmax.exporting import export

    made, folder, target = tmp_path / "made" / "a.xml", tmp_path / "aside", tmp_path / "there" / "a.xml"
    for place in (made, target):
        place.parent.mkdir()
        for one in (place, place.with_suffix(".bin")):
            one.write_text(place.parent.name)
    folder.mkdir()
    plain = Path.replace

    def move(self: Path, place: Path) -> Path:
        return failing(errno.ENOSPC)() if self == made else plain(self, place)

    monkeypatch.setattr(Path, "replace", move)
    with pytest.raises(OSError, match="No space left"):
        export._publish(made, target, folder)
    assert [place.read_text() for place in sorted(target.parent.iterdir())] == ["there", "there"]


def test_a_read_only_file_and_what_is_not_a_file(student: torch.nn.Module, tmp_path: Path) -> None:
    only = tmp_path / "only.safetensors"
    only.write_text("old")
    only.chmod(0o444)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path)
    for name, reason in (("only.safetensors", "read-only"), ("pipe", "not an ordinary"), ("link", "is a directory")):
        with pytest.raises(CheckpointError, match=reason):
            lloydmax.save(student, tmp_path / name)
        with pytest.raises(OutputError, match=reason):
            lloydmax.Recipe.load(RECIPE).save(tmp_path / name)
        with pytest.raises(OutputError, match=reason):
            files.write_json(tmp_path / name, {})
    assert only.read_text() == "old" and (tmp_path / "pipe").is_fifo()


def test_a_folder_that_goes_away(tmp_path: Path) -> None:
    mapped = Mapped(tmp_path / "gone", "x")
    with pytest.raises(OutputError, match=r"gone: no room for 8 B in a file: No such file"):
        mapped.take(8)


def test_mapped_files_go_with_what_holds_them(tmp_path: Path) -> None:
    mapped = Mapped(tmp_path, "x")
    held = mapped.take(1000)
    held.fill_(3)
    (file,) = tmp_path.rglob("*.bin")
    assert file.stat().st_size == 1000
    mapped.close()
    assert not list(tmp_path.iterdir()) and int(held.sum()) == 3000
    again = Mapped(tmp_path, "x")
    again.take(8)
    del again
    assert not list(tmp_path.iterdir())


PATHS = [None, 3, 1.5, True, [], b"a\0b", "a\0b", "x" * 300, ""]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path)[:8])
def test_what_is_not_a_path(
    path: Any, student: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = [
        lambda: lloydmax.save(student, path),
        lambda: lloydmax.load(path, net()),
        lambda: lloydmax.verify(path),
        lambda: lloydmax.inspect(path),
        lambda: lloydmax.export(student, path, "torch", example_inputs=X),
        lambda: lloydmax.Recipe.load(RECIPE).save(path),
        lambda: lloydmax.Report.from_json(path),
        lambda: files.write_json(path, {}),
    ]
    if path is not None:
        calls.append(lambda: lloydmax.compress(net(), RECIPE, progress=False, workdir=path))
    for call in calls:
        with pytest.raises(lloydmax.LloydmaxError) as error:
            call()
        assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_path_in_bytes_and_one_with_a_line_break(student: torch.nn.Module, tmp_path: Path) -> None:
    size = lloydmax.save(student, os.fsencode(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").stat().st_size == size
    (tmp_path / "a\nb").mkdir()
    with pytest.raises(CheckpointError, match=r"a\\nb: is a directory"):
        lloydmax.save(student, tmp_path / "a\nb")
