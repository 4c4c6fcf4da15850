"""The lower envelope of parabolas, against the cheapest of all at every place."""

from __future__ import annotations

import numpy as np
import pytest
from lloydmax.codebook.cheapest import cheapest


@pytest.mark.parametrize("price", [1e-6, 0.01, 0.3, 10.0])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_cheapest_everywhere(price: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    centroids, bits = np.sort(draw.normal(size=40)), draw.uniform(1, 12, 40)
    if seed:
        centroids[10:13] = centroids[10]
    kept, limits = cheapest(centroids, bits, price)
    assert (np.diff(kept) > 0).all() and (np.diff(limits) > 0).all() and len(limits) == len(kept) - 1
    places = np.linspace(-20, 20, 4001)
    cost = (places[:, None] - centroids) ** 2 + price * bits
    own = cost[np.arange(len(places)), kept[np.searchsorted(limits, places)]]
    assert np.allclose(own, cost.min(1), rtol=0, atol=1e-9)


def test_one_centroid_has_no_limits() -> None:
    kept, limits = cheapest(np.array([2.0]), np.array([3.0]), 1.0)
    assert kept.tolist() == [0] and not len(limits)
