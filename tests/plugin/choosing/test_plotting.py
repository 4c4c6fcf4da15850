"""Plots of a sweep."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import SmallNet
from lloydmax import IntegrationError, sweep
from torch import Tensor

KS = [2, 4, 16, 64]
ALL = {"quantize": [{"layers": "all"}]}


def test_plot(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = sweep(small_net, ALL, pictures, KS)
    found.plot(tmp_path / "sweep.svg")
    assert "<svg" in (tmp_path / "sweep.svg").read_text()
    found.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = sweep(small_net, ALL, pictures, [4])
    with pytest.raises(IntegrationError, match="pip install matplotlib"):
        found.plot(tmp_path / "sweep.svg")
