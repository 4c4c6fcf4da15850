"""Files that recipes are read from: ordinary ones, and those that never end or never begin."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from lloydmax import Recipe, RecipeError
from lloydmax.recipe.reading import read_lined

GOOD = "quantize: [{layers: all, centroids: 4}]\n"


def refused(source: str | Path) -> str:
    """The one line that says why."""
    started = time.perf_counter()
    with pytest.raises(RecipeError) as error:
        Recipe.load(source)
    assert time.perf_counter() - started < 1
    assert str(error.value).isprintable()
    return str(error.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert refused(path) == f"{path}: larger than 1 MiB, so surely not a recipe"
    assert (
        refused("#\n" * (1 << 19) + GOOD) == "recipe:1: the whole document: larger than 1 MiB, so surely not a recipe"
    )
    assert "larger than 1 MiB" in refused("# " + "é" * (1 << 19) + "\n" + GOOD), "bytes count"
    path.write_text("# x\n" * ((1 << 18) - 20) + GOOD)
    assert Recipe.load(path).quantize[0].options == {"centroids": 4}


@pytest.mark.skipif(os.name != "posix", reason="special files")
def test_what_is_not_an_ordinary_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    special = "not an ordinary file, but a device, a pipe or a socket"
    for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero"), Path("/dev/null"), Path("/dev/random")):
        assert refused(path) == refused(str(path)) == f"{path}: {special}"
    read, write = os.pipe()
    assert special in refused(f"/dev/fd/{read}")
    os.close(read), os.close(write), listening.close()
    assert refused(tmp_path) == f"{tmp_path}: is a folder: name the file in it"


@pytest.mark.skipif(os.name != "posix", reason="links and names as POSIX has them")
def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "broken").symlink_to(tmp_path / "missing")
    assert "symbolic links" in refused(tmp_path / "loop") and "No such file" in refused(tmp_path / "broken")
    assert refused("a\0b") == refused(Path("a\0b")) == r"a\x00b: embedded null byte"
    assert refused("~/no.yaml") == "~/no.yaml: No such file or directory"
    assert refused("https://example.org/a.yaml") == "https://example.org/a.yaml: No such file or directory"
    assert "File name too long" in refused("x" * 300) and "File name too long" in refused("[" * 3010)
    assert refused("\ud800").startswith(r"\ud800: ") and refused("\x1b[31m").startswith(r"\x1b[31m: ")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "closed.yaml").write_text(GOOD)
    (tmp_path / "closed.yaml").chmod(0)
    assert refused(tmp_path / "closed.yaml").endswith("closed.yaml: Permission denied")


@pytest.mark.parametrize("text", ["", "\n", "   ", "# only\n# comments\n", "---\n", "null\n", "~\n", "- a\n", "5\n"])
def test_a_recipe_without_any_rule(text: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text(text)
    said = r": the whole document: a recipe is a mapping with 'quantize:' rules"
    assert refused(path) in [f"{path}:{line}{said}" for line in (1, 2, 3)]
    assert said in refused(f"{text}\n")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_other_encodings_are_told(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_bytes(f"# é\n{GOOD}".encode(encoding))
    assert refused(path) == f"{path}: not a text file in UTF-8"


@pytest.mark.parametrize(
    "text", ["\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), GOOD.replace("\n", "\r"), GOOD + "...\n"]
)
def test_marks_and_ends_of_lines_of_other_systems(text: str, tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(text.encode())
    assert read_lined(path).data == {"quantize": [{"layers": "all", "centroids": 4}]}
    path.write_bytes((text.removesuffix("...\n") + "seed: -1\n").encode())
    assert refused(path) == f"{path}:2: seed: must be greater than or equal to 0, got -1"


def test_a_name_with_escapes_is_told_without(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31mred\u202e.yaml"
    path.write_text("seed: -1\nquantize: []\n", encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        Recipe.load(path)
    for line in str(error.value).split("\n"):
        assert line.isprintable() and r"\x1b[31mred\u202e.yaml:" in line
