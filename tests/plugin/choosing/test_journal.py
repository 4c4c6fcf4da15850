"""The journal of a sweep: what was measured is read again, broken lines are not."""

from __future__ import annotations

from pathlib import Path

from lloydmax.choosing.journal import Journal


def test_journal_survives_broken_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "j", [1])
    assert journal.get("a", lambda: [0.1, None]) == [0.1, None]
    assert journal.path is not None
    journal.path.write_bytes(journal.path.read_bytes() + b"\xff\n{}\n" + b'["b", ')
    again = Journal(tmp_path, "j", [1])
    assert again.get("a", lambda: 1 / 0) == [0.1, None]
    assert again.get("b", lambda: 2) == 2
    assert Journal(tmp_path, "j", [1]).get("b", lambda: 1 / 0) == 2
