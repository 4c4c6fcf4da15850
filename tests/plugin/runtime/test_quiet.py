"""Other libraries' notes are silenced in one thread only."""

from __future__ import annotations

import logging
import sys
import threading
import warnings

import pytest
from lloydmax.runtime.quiet import quiet


def test_this_thread_is_silent_and_others_are_not(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    log, told = logging.getLogger("of.others"), []

    def speak(who: str) -> None:
        warnings.warn(f"{who} warns", stacklevel=1)
        log.error("%s logs", who)
        print(f"{who} prints", file=sys.stderr)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        filters, stderr = list(warnings.filters), sys.stderr
        with quiet():
            speak("one")
            log.critical("one fails")
            other = threading.Thread(target=speak, args=("another",))
            other.start()
            other.join()
        assert (warnings.filters, sys.stderr) == (filters, stderr)
        told = [str(warning.message) for warning in seen]
    assert told == ["another warns"]
    assert caplog.messages == ["one fails", "another logs"]
    assert capsys.readouterr().err == "another prints\n"


def test_a_copy_of_the_filters_that_somebody_holds_is_silent_no_more() -> None:
    with quiet():
        kept = list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.filters[:] = [*kept[:1], ("always", None, Warning, None, 0)]  # type: ignore[index]
        warnings.warn("heard", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["heard"]


def test_threads_that_leave_in_any_order_leave_the_stream_as_it_was() -> None:
    before, inside, leave = sys.stderr, threading.Event(), threading.Event()

    def first() -> None:
        with quiet():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with quiet():
        leave.set()
        thread.join()
        assert sys.stderr is not before
    assert sys.stderr is before
