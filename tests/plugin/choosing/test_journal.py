"""The journal of a sweep: what was measured is read again, damaged lines are not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("kind", ["nowhere", "loop", "nul", "nul at the end"])
def test_what_is_not_what_a_kill_leaves_is_told_and_set_aside(kind: str, tmp_path: Path) -> None:
    path = _written(tmp_path)
    whole = path.read_bytes()
    path.unlink()
    if kind in ("nowhere", "loop"):
        path.symlink_to(path.name if kind == "loop" else "nowhere")
    else:
        path.write_bytes(whole[:-30] + b"\0" * 30 if kind == "nul at the end" else b"\0" * len(whole))
    with pytest.warns(UserWarning, match="set aside as j-31.jsonl.damaged"):
        assert _made_again(tmp_path) == list("c" if kind == "nul at the end" else "abc")
    assert not _made_again(tmp_path) and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "line",
    ['["b", {}, null]', '["b", [1], "%%%"]', '["b", [1], 5]', '[["b"], [1], null]', '["b"]', "7",
     '["b", [1], "WyJkaWN0IixbXV0K"]', '["b", [1], "WyJmbG9hdCIsIjB4MXA5OTk5OSJdCg=="]'],
)  # fmt: skip
def test_a_line_with_something_else_is_told_and_made_again(line: str, tmp_path: Path) -> None:
    def run() -> list[Any]:
        with seeded(0, nn.Linear(1, 1)):
            journal = Journal(tmp_path, "j", b"1", Traces([]))
            return [journal.get(key, lambda: [on_own_states(lambda: float(torch.rand(())))], _first) for key in "abc"]

    def _first(made: list[float]) -> float:
        return made[0]

    wanted, journal = run(), tmp_path / "j-31.jsonl"
    lines = journal.read_text().splitlines()
    lines[1] = f"{Journal(tmp_path, 'j', b'1')._sum(line)} {line}"
    journal.write_text("\n".join([*lines, ""]))
    with pytest.warns(UserWarning, match="set aside as j-31.jsonl.damaged") as told:
        assert run() == wanted
    assert len(told) == 1 and len(str(told[0].message).splitlines()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run() == wanted


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
