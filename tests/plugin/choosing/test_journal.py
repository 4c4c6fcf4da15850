"""The journal of a sweep: what was measured is read again, damaged lines are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lloydmax.choosing.journal import Journal
from lloydmax.recovery.resume import Traces
from lloydmax.runtime.seeding import on_own_states, seeded
from torch import nn

MADE = [0.1, None, float("inf")]


def _written(folder: Path) -> Path:
    journal = Journal(folder, "j", b"1")
    for key in "abc":
        assert journal.get(key, lambda: MADE) == MADE
    assert journal.path is not None
    return journal.path


def _made_again(folder: Path) -> list[str]:
    journal, made = Journal(folder, "j", b"1"), []
    for key in "abc":
        assert journal.get(key, lambda key=key: made.append(key) or [0.1, None, float("inf")]) == [
            0.1,
            None,
            float("inf"),
        ]
    return made


def test_what_a_kill_left_of_a_line_is_cut_off(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    whole = _written(tmp_path).read_bytes()
    for end in range(0, len(whole), 3):
        _written(tmp_path).write_bytes(whole[:end])
        assert _made_again(tmp_path) == list("abc")[whole[:end].count(b"\n") :]
        assert _written(tmp_path).read_bytes() == whole
    assert not recwarn.list


def test_every_flipped_bit_is_told_and_its_line_made_again(tmp_path: Path) -> None:
    path = _written(tmp_path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.warns(UserWarning, match="j-31.jsonl: .* set aside as j-31.jsonl.damaged"):
            assert len(_made_again(tmp_path)) in (0, 1, 2)
        assert _made_again(tmp_path) == []
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_journal_of_another_name_or_kind_is_not_read(tmp_path: Path) -> None:
    path = _written(tmp_path)
    path.rename(tmp_path / "j-32.jsonl")
    with pytest.warns(UserWarning, match="set aside"):
        assert Journal(tmp_path, "j", b"2").get("a", lambda: 2) == 2
    path.mkdir()
    with pytest.warns(UserWarning, match="not an ordinary file"):
        assert Journal(tmp_path, "j", b"1").get("a", lambda: 2) == 2


def test_random_states_go_on_from_where_they_were(tmp_path: Path) -> None:
    def drawn(journal: Journal) -> list[float]:
        return [journal.get(str(n), lambda: on_own_states(lambda: float(torch.rand(())))) for n in range(4)]

    def run() -> list[float]:
        with seeded(0, nn.Linear(1, 1)):
            return drawn(Journal(tmp_path, "j", b"1", Traces([])))

    wanted = run()
    journal = tmp_path / "j-31.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    assert run() == wanted
