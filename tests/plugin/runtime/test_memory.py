"""What the C library keeps of freed memory goes back once it is much."""

from __future__ import annotations

import pytest
from lloydmax.runtime import memory


def test_memory_goes_back_once_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    part, resident, trimmed = (8 << 20) // 64, [0], list[int]()

    def trim() -> None:
        trimmed.append(resident[0])
        resident[0] -= 10 * part

    monkeypatch.setattr(memory, "_least", None)
    monkeypatch.setattr(memory, "_resident", lambda: resident[0])
    monkeypatch.setattr(memory, "_trim", trim)
    for now in (500, 530, 400, 460, 470, 515):
        resident[0] = now * part
        memory.give_back()
    assert trimmed == [500 * part, 470 * part], "the first time, and 8 MiB above the least"
    monkeypatch.setattr(memory, "_resident", lambda: None)
    memory.give_back()
    assert len(trimmed) == 3, "always, where the system does not tell"
