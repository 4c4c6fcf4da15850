"""Work that is done where no other thread sees it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from lloydmax import ExportError
from lloydmax.runtime import apart as module
from lloydmax.runtime.apart import apart

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork")


@pytest.fixture
def other() -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_results_and_errors_come_back_from_another_process(other: None) -> None:
    assert apart(os.getpid) != os.getpid()
    assert torch.equal(apart(lambda: torch.ones(3) @ torch.ones(3, 3)), torch.full((3,), 3.0))

    def refused() -> None:
        raise ExportError("no such thing")

    with pytest.raises(ExportError, match="no such thing"):
        apart(refused)


def test_alone_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert apart(os.getpid) == os.getpid()


def test_children_that_are_stuck_or_die_are_replaced_by_this_process(
    other: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL", 0.05)
    here = os.getpid()

    def stuck() -> int:
        if os.getpid() != here:
            time.sleep(60)
        return os.getpid()

    def dying() -> int:
        if os.getpid() != here:
            os._exit(1)
        return os.getpid()

    assert apart(stuck) == apart(dying) == here
