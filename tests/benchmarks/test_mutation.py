"""The mutation run on a package of one module: what is found, what survives, what no test runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="the extra 'bench' is not installed")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

MODULE = '''"""A module."""

from __future__ import annotations

LOW = 0


def clipped(x: int | None, low: int = LOW) -> int | None:
    """At least ``low``, at most 10 / 2."""
    if x < low:
        return low
    return min(
        x,
        10 - 5,
    )


def idle(x: int) -> int:
    return x + 1
'''
TEST = """
from lloydmax.codebook.clip import clipped

def test_clipped():
    assert [clipped(x) for x in (-3, -1, 0, 2, 9)] == [0, 0, 0, 2, 5]
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path, text in (
        ("plugin/lloydmax/__init__.py", ""),
        ("plugin/lloydmax/codebook/__init__.py", ""),
        ("plugin/lloydmax/codebook/clip.py", MODULE),
        ("tests/plugin/codebook/test_clip.py", TEST),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_annotations_are_left_alone_and_a_sample_has_one_change_of_a_kind_at_a_place(tree: Path) -> None:
    from mutants.changes import changes, sampled

    found = list(changes(tree, "plugin/lloydmax/codebook/clip.py"))
    assert {change.line for change in found} == {5, 10, 14, 19}
    assert {change.lines for change in found if change.line == 14} == {(12, 13, 14, 15)}
    assert [change.at_import for change in found if change.line in (5, 10)] == [
        change.line == 5 for change in found if change.line in (5, 10)
    ]
    drawn = sampled(found, 100, 3)
    assert len({change.place for change in drawn}) == len(drawn) < len(found) == len(sampled(found, None, 3))
    assert drawn == sampled(found, 100, 3) and len(sampled(found, 2, 3)) == 2
    minus = next(change for change in found if change.operator.endswith("Sub_Add"))
    assert minus.shown(tree).replace(" ", "") == "10-5,->10+5,"


@pytest.mark.slow
def test_what_tests_find_and_what_survives(tree: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import mutation

    before = {path: path.read_bytes() for path in tree.rglob("*.py")}
    journal = tmp_path / "journal.jsonl"
    arguments = ["--rooms", "codebook", "--root", str(tree), "--all", "--journal", str(journal)]
    outcomes = {change.shown(tree): found["outcome"] for change, found in mutation.main(*arguments)}
    assert outcomes["LOW = 0  ->  LOW = 1"] == outcomes["if x < low:  ->  if x > low:"] == "failed"
    assert outcomes["if x < low:  ->  if x <= low:"] == "passed"
    assert {found for shown, found in outcomes.items() if shown.startswith("return x + 1")} == {"not run"}
    assert {path: path.read_bytes() for path in before} == before
    said = capsys.readouterr().out
    assert "- plugin/lloydmax/codebook/clip.py:10: `if x < low:  ->  if x <= low:` (1 tests passed)" in said
    assert f"{len(outcomes)} changes, all" in said and "cosmic_ray" in said
    lines = journal.read_text()
    mutation.main(*arguments)
    assert capsys.readouterr().out == said and journal.read_text() == lines, "the second run reads the journal"
