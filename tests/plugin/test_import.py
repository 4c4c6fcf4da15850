"""Importing is cheap and pulls in no optional host."""

from __future__ import annotations

from import_time import imported_hosts, seconds_beyond_torch


def test_import_is_cheap() -> None:
    assert seconds_beyond_torch(3) < 0.5


def test_no_optional_host_is_imported() -> None:
    assert imported_hosts() == []
