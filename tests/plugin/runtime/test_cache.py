"""Results that runs over the same model and data share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from lloydmax import Cache, compress
from torch import nn


def test_a_plain_loop_fits_the_second_time_from_the_cache() -> None:
    torch.manual_seed(0)
    model, data, cache = (
        nn.Sequential(nn.Linear(800, 800), nn.ReLU(), nn.Linear(800, 10)),
        torch.randn(32, 800),
        Cache(),
    )
    recipe = {"quantize": [{"layers": "all", "centroids": 64}]}
    first, second = (compress(model, recipe, data, cache=cache, progress=False) for _ in range(2))
    assert first.report.seconds["fit"] > 5 * second.report.seconds["fit"]
    assert first.report.kl == second.report.kl


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
