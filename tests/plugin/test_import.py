"""Importing is cheap and pulls in no optional host."""

from __future__ import annotations

import sys
from pathlib import Path

from import_time import imported_hosts, seconds_beyond_torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


def test_import_is_cheap() -> None:
    assert seconds_beyond_torch(3) < 0.5


def test_no_optional_host_is_imported() -> None:
    assert imported_hosts() == []
