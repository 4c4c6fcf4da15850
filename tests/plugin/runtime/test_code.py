"""Which code is a package's, and which the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from lloydmax.runtime import code


@pytest.mark.parametrize(
    ("folder", "packaged"), [("site-packages", True), ("dist-packages", True), ("packages", False)]
)
def test_packages_of_another_environment_are_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, packaged: bool
) -> None:
    name = f"somebodys_{folder.replace('-', '_')}"
    (tmp_path / folder / name).mkdir(parents=True)
    (tmp_path / folder / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / folder)
    assert (code.library(f"{name}.part") is not None) == packaged
