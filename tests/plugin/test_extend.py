"""The one door for plugins: every name is an idea with a docstring, and the page lists it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from lloydmax import extend

STRATEGIES = Path(__file__).parents[2] / "strategies" / "lloydmax_strategies"


def test_the_map_is_the_list() -> None:
    listed = re.findall(r"^    (\w+) {2,}\S", extend.__doc__ or "", re.MULTILINE)
    assert listed == extend.__all__


def test_there_are_few_names() -> None:
    assert len(extend.__all__) == len(set(extend.__all__)) <= 41


@pytest.mark.parametrize("name", extend.__all__)
def test_every_name_has_a_docstring(name: str) -> None:
    found: Any = getattr(extend, name)
    if name == "Granularity":  # an annotated type, documented where it is defined
        return
    assert inspect.getdoc(found)
    for attribute, value in vars(found).items() if inspect.isclass(found) else ():
        if callable(value) and not attribute.startswith("_") and inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{attribute}"


def test_nothing_is_there_that_the_built_in_strategies_do_without() -> None:
    used = set()
    for path in STRATEGIES.rglob("*.py"):
        for names in re.findall(r"from lloydmax\.extend import (\([^)]*\)|.*)", path.read_text(encoding="utf-8")):
            used |= set(re.findall(r"\w+", names))
    for_others = {"Quantizer", "RecoveryStep", "Importance", "SearchMethod", "register", "unregister"}
    for_others |= {"Comparison"}
    assert set(extend.__all__) - used == for_others
