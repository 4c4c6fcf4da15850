"""The core is found, switched off, and its paths compute alike."""

from __future__ import annotations

import importlib.machinery
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lloydmax import native
from lloydmax.native import library
from lloydmax.native.library import PATHS, core, ready
from lloydmax.report.layers import in_bins
from lloydmax_command import main


@pytest.fixture
def path_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """What computes with this value of the switch."""

    def path(switch: str) -> str:
        monkeypatch.setenv("LLOYDMAX_NATIVE", switch)
        core.cache_clear()
        return native.path()

    yield path
    monkeypatch.undo()
    core.cache_clear()
    native.active()


def test_the_core_was_built_here() -> None:
    """Where it is not, a build failed without a word: setuptools leaves optional extensions out."""
    folder = Path(native.__file__).parent
    built = [folder / f"_core{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    assert any(file.is_file() for file in built), "python setup.py build_ext --inplace tells why"


def test_it_can_be_switched_off(path_for: Callable[[str], str]) -> None:
    assert path_for("0") == "python" and not native.active()


@pytest.mark.skipif(core() is None, reason="needs the core")
def test_a_path_can_be_asked_for(path_for: Callable[[str], str]) -> None:
    assert path_for("portable") in ("portable", "neon")


def test_the_command_tells_the_path(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert f"core: {native.path()}" in capsys.readouterr().out


def test_a_file_that_is_no_core_leaves_the_twins(tmp_path: Path, path_for: Callable[[str], str]) -> None:
    broken = tmp_path / "core.so"
    broken.write_bytes(b"not a library")
    assert path_for(str(broken)) == "python"


@pytest.mark.skipif(core() is None, reason="needs the core")
def test_the_core_of_another_version_is_told_and_left(
    path_for: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_VERSION", 0)
    with pytest.warns(UserWarning, match="built from another version of lloydmax.*pip install -e"):
        assert path_for("") == "python"


@pytest.mark.skipif(core() is None, reason="needs the core")
def test_every_path_of_this_machine_computes_the_same() -> None:
    library, rows = ready(), torch.randn(9, 500, generator=torch.Generator().manual_seed(0))
    best, found = library.lm_path_taken(), []
    try:
        for path in range(len(PATHS)):
            library.lm_take_path(path)
            found.append(native.fit_rows(rows, None, 16, torch.uint8))
    finally:
        library.lm_take_path(best)
    for centroids, codes in found[1:]:
        assert torch.equal(centroids, found[0][0]) and torch.equal(codes, found[0][1])


@pytest.mark.skipif(core() is None, reason="needs the core")
def test_bins_are_those_of_the_twin() -> None:
    values = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    low, high = float(values.min()), float(values.max())
    for factor in (64 / (high - low), 0.0):
        assert torch.equal(native.bins(values, low, factor, 64), in_bins(values, low, factor, 64))
