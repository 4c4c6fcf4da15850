"""Mutated recipes: read as they say, or refused with line and field; the long run prints a row of the page.

python -m pytest -q -s -m slow tests/fuzz/test_fuzz_recipes.py        5,000 recipes, or as many as FUZZED_RECIPES says
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from recipe_mutations import files, mappings, seeds, texts
from recipe_property import Outcome, kind, read

CORPUS = Path(__file__).parent / "corpus" / "recipes"
MANY = int(os.environ.get("FUZZED_RECIPES", "5000"))
QUICK = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def attacked(source: str | bytes | dict[str, Any], scratch: Path) -> Outcome:
    """What came of a text, of the bytes of a file, or of a dict."""
    if isinstance(source, bytes):
        path = scratch / "mutant.yaml"
        path.write_bytes(source)
        return read(path, scratch)
    return read(source if isinstance(source, dict) else f"{source}\n", scratch)


@pytest.mark.parametrize("text", seeds(), ids=lambda text: text.partition("\n")[0][:30])
def test_what_is_mutated_was_good(text: str, tmp_path: Path) -> None:
    outcome = attacked(text, tmp_path)
    assert outcome.accepted and not outcome.problems


@pytest.mark.parametrize("name", sorted(path.stem for path in CORPUS.glob("*.json")))
def test_what_was_found_once(name: str, tmp_path: Path) -> None:
    """A recipe is a list of pieces, each with how often it is repeated, or data."""
    finding = json.loads((CORPUS / f"{name}.json").read_text(encoding="utf-8"))
    for recipe in finding["recipes"]:
        source = recipe if isinstance(recipe, dict) else "".join(piece * times for piece, times in recipe)
        outcome = attacked(source, tmp_path)
        assert not outcome.problems, (recipe, outcome)
        assert finding["accepted"] or outcome.refused, recipe


@settings(QUICK, max_examples=150)
@given(source=texts())
def test_mutated_texts(source: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome = attacked(source, tmp_path_factory.getbasetemp())
    assert not outcome.problems, outcome


@settings(QUICK, max_examples=50)
@given(source=files())
def test_mutated_files(source: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome = attacked(source, tmp_path_factory.getbasetemp())
    assert not outcome.problems, outcome


@settings(QUICK, max_examples=150)
@given(source=mappings())
def test_mutated_data(source: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome = attacked(source, tmp_path_factory.getbasetemp())
    assert not outcome.problems, outcome


@pytest.mark.slow
def test_many_mutated_recipes(tmp_path: Path) -> None:
    outcomes: list[tuple[Outcome, Any]] = []

    @settings(QUICK, max_examples=MANY, phases=[Phase.generate])
    @given(source=st.one_of(texts(), texts(), files(), mappings(), mappings()))
    def run(source: Any) -> None:
        outcomes.append((attacked(source, tmp_path), source))

    run()
    refused = Counter(kind(outcome.refused) for outcome, _ in outcomes if outcome.refused)
    accepted = sum(outcome.accepted for outcome, _ in outcomes)
    without, worst = sum(o.without_line for o, _ in outcomes), max(outcome.seconds for outcome, _ in outcomes)
    print(
        f"\n| {len(outcomes):,} | {accepted:,} | {len(outcomes) - accepted:,} | {without} | {1000 * worst:.0f} ms |\n"
    )
    print("\n".join(f"{count:6} {reason}" for reason, count in refused.most_common(40)))
    problems: dict[str, list[str]] = {}
    for outcome, source in outcomes:
        for problem in outcome.problems:
            problems.setdefault(kind(problem), []).append(f"{problem}\n    {source!r}"[:2000])
    assert not problems, "\n".join(f"{len(found)} x {min(found, key=len)}" for found in problems.values())
