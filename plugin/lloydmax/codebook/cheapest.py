"""Which centroid a weight chooses where bits have a price: the lower envelope of ``(w - c) ** 2 + price * bits``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def cheapest(centroids: Floats, bits: Floats, price: float) -> tuple[NDArray[np.int64], Floats]:
    """The centroids that are the cheapest somewhere, and where one gives way to the next.

    Args:
        centroids: ``(k,)``, ascending.
        bits: of the code of each.
        price: of one bit, in squared units of the centroids.

    Returns:
        Indices ``(n,)``, ascending, and thresholds ``(n - 1,)``, strictly ascending.
    """
    gaps = centroids[1:] - centroids[:-1]
    if gaps.min(initial=1.0) > 0:
        limits = (centroids[1:] + centroids[:-1]) / 2 + price * (bits[1:] - bits[:-1]) / (2 * gaps)
        if bool((limits[1:] > limits[:-1]).all()):
            return np.arange(len(centroids)), limits
    places, costs = centroids.tolist(), bits.tolist()
    kept: list[int] = []
    found: list[float] = []
    for index, (place, cost) in enumerate(zip(places, costs, strict=True)):
        while kept:
            last = kept[-1]
            gap = place - places[last]
            if gap <= 0:
                if cost >= costs[last]:
                    break
            else:
                limit = (place + places[last]) / 2 + price * (cost - costs[last]) / (2 * gap)
                if not found or limit > found[-1]:
                    kept.append(index)
                    found.append(limit)
                    break
            kept.pop()
            del found[max(len(kept) - 1, 0) :]
        else:
            kept.append(index)
    return np.array(kept, np.int64), np.array(found)
