"""Docstrings refer to names that are there, and the check finds those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import references


def test_docstrings_refer_to_what_is_there() -> None:
    assert references.broken() == []


def test_a_name_that_is_not_there_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lloydmax").mkdir()
    text = '"""See :func:`gone`, :class:`lloydmax.one.Kept`, :meth:`Kept.made` and :meth:`Kept.lost`."""\n'
    (tmp_path / "lloydmax" / "one.py").write_text(f"{text}class Kept:\n    def made(self): ...\n")
    monkeypatch.setattr(references, "SOURCES", (tmp_path,))
    monkeypatch.setattr(references, "ROOT", tmp_path)
    assert references.broken() == ["lloydmax/one.py:1: gone", "lloydmax/one.py:1: Kept.lost"]
