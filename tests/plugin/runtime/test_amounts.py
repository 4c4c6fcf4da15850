"""Times and sizes in words."""

from __future__ import annotations

from typing import Any

import pytest
from lloydmax.errors import RecipeError
from lloydmax.runtime.amounts import seconds, size


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(90, 90), ("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), (" 1.5 H ", 5400), ("2min 5s", 125)],
)
def test_times(given: Any, wanted: float) -> None:
    assert seconds("max_time", given, RecipeError) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"), [(5, 5), ("5", 5), ("500MB", 5e8), ("2 GB", 2e9), ("1.5GiB", 1.5 * 2**30), ("2g", 2e9)]
)
def test_sizes(given: Any, wanted: float) -> None:
    assert size("max_memory", given, RecipeError) == wanted


@pytest.mark.parametrize("given", ["much", "2GBs", "GB", "1,5GB", "0MB", None, [2]])
def test_what_is_no_size_is_refused(given: Any) -> None:
    with pytest.raises(RecipeError, match="max_memory"):
        size("max_memory", given, RecipeError)
