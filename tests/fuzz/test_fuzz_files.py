"""Mutated files: refused with a reason, or loaded as they say; the long run prints a row of the format's page.

python -m pytest -q -s -m slow tests/fuzz/test_fuzz_files.py        20,000 files, or as many as FUZZED_FILES says
"""

from __future__ import annotations

import json
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from file_anatomy import anatomy, mutant, seed
from file_mutations import mutations
from file_property import Outcome, Target, kind, opened
from golden_models import CASES
from hypothesis import HealthCheck, Phase, given, settings

CORPUS = Path(__file__).parent / "corpus" / "files"
MANY = int(os.environ.get("FUZZED_FILES", "20000"))
target = cache(Target)


def attacked(mutation: dict[str, Any], folder: Path) -> Outcome | None:
    """What came of one mutation; ``None`` where there is no such file."""
    data = mutant(mutation)
    if data is None:
        return None
    path = folder / "mutant.safetensors"
    path.write_bytes(data)
    return opened(path, target(mutation["seed"]))


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_is_put_together_again_is_the_same(name: str) -> None:
    assert mutant({"seed": name, "steps": [], "raw": []}) == seed(name)
    again = mutant({"seed": name, "steps": [["metadata", "more", ""]], "raw": []})
    assert again is not None and type(anatomy(name)).of(again) == anatomy(name)


@pytest.mark.parametrize("name", sorted(path.stem for path in CORPUS.glob("*.json")))
def test_what_was_found_once(name: str, tmp_path: Path) -> None:
    finding = json.loads((CORPUS / f"{name}.json").read_text(encoding="utf-8"))
    for mutation in finding["mutations"]:
        outcome = attacked(mutation, tmp_path)
        assert outcome is not None, mutation
        assert not outcome.problems, mutation
        assert not (finding.get("loads") and outcome.refused), (mutation, outcome)


@settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(mutation=mutations())
def test_mutated_files(mutation: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    outcome = attacked(mutation, tmp_path_factory.getbasetemp())
    assert outcome is None or not outcome.problems, outcome


@pytest.mark.slow
def test_many_mutated_files(tmp_path: Path) -> None:
    outcomes: list[tuple[Outcome, str]] = []
    many = settings(max_examples=MANY * 5 // 4, deadline=None, derandomize=True, database=None, phases=[Phase.generate])

    @settings(many, suppress_health_check=list(HealthCheck))
    @given(mutation=mutations())
    def run(mutation: dict[str, Any]) -> None:
        if (outcome := attacked(mutation, tmp_path)) is not None:
            outcomes.append((outcome, json.dumps(mutation)))

    run()
    refused = Counter(kind(outcome.refused) for outcome, _ in outcomes if outcome.refused)
    worst = max(outcome.seconds for outcome, _ in outcomes), max(outcome.mebibytes for outcome, _ in outcomes)
    print(
        f"\n| {len(outcomes):,} | {refused.total():,} | {len(outcomes) - refused.total():,} | {len(refused)} ", end=""
    )
    print(f"| {1000 * worst[0]:.0f} ms | {worst[1]:.0f} MiB |\n")
    print("\n".join(f"{count:6} {reason}" for reason, count in refused.most_common(40)))
    problems: dict[str, list[str]] = {}
    for outcome, mutation in outcomes:
        for problem in outcome.problems:
            problems.setdefault(kind(problem), []).append(f"{problem}\n    {mutation}")
    assert len(outcomes) >= MANY
    assert not problems, "\n".join(f"{len(found)} x {min(found, key=len)}" for found in problems.values())
