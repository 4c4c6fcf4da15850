"""Data of strangers: used as far as it can be, or refused with a reason.

python -m pytest -q -s -m slow tests/fuzz/test_fuzz_batches.py        1,000 sources of data, or FUZZED_BATCHES
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from typing import Any

import lloydmax
import pytest
import torch
from batch_mutations import sources
from hypothesis import HealthCheck, Phase, given, settings
from recipe_property import kind, network

MANY = int(os.environ.get("FUZZED_BATCHES", "1000"))
QUICK = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
RECIPE = {
    "quantize": [{"layers": "all", "centroids": 4}],
    "recover": [{"step": "renormalize", "samples": 8}, {"step": "distill", "steps": 1, "batch_size": 4}],
}


def used(data: Any) -> tuple[str, list[str]]:
    """Why data are refused (empty: they are not), and what must not be."""
    before = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    refused, problems = "", []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = lloydmax.compress(network(), RECIPE, data, progress=False)
        if not all(bool(t.isfinite().all()) for t in result.model.state_dict().values() if t.is_floating_point()):
            problems.append("the compressed model is not finite")
    except lloydmax.LloydmaxError as error:
        refused = str(error)
        if not refused.isprintable() or len(refused) > 2000:
            problems.append(f"says {refused!r}")
    except Exception as error:
        refused = f"{type(error).__name__}: {error}"
        problems.append(refused[:300])
    if any(not torch.equal(tensor, before[name]) for name, tensor in network().state_dict().items()):
        problems.append("the original is changed")
    return refused, problems


@settings(QUICK, max_examples=25)
@given(data=sources())
def test_odd_data(data: Any) -> None:
    assert not used(data)[1]


@pytest.mark.slow
def test_much_odd_data() -> None:
    outcomes: list[tuple[str, list[str], str]] = []

    @settings(QUICK, max_examples=MANY, phases=[Phase.generate])
    @given(data=sources())
    def run(data: Any) -> None:
        outcomes.append((*used(data), repr(data)[:300]))

    run()
    refused = Counter(kind(reason) for reason, _, _ in outcomes if reason)
    print(f"\n| {len(outcomes):,} | {len(outcomes) - refused.total():,} | {refused.total():,} |\n")
    print("\n".join(f"{count:6} {reason}" for reason, count in refused.most_common(40)))
    problems: dict[str, list[str]] = {}
    for _, found, data in outcomes:
        for problem in found:
            problems.setdefault(kind(problem), []).append(f"{problem}\n    {data}")
    assert not problems, "\n".join(f"{len(found)} x {min(found, key=len)}" for found in problems.values())
