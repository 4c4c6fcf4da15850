"""Blocks of weights: how many are distinct, and which centroid is nearest to each."""

from __future__ import annotations

import pytest
import torch
from lloydmax.codebook.blocks import distinct, features, nearest


@pytest.mark.parametrize("different", [1, 2, 7, 40])
def test_distinct_blocks_are_counted_exactly_up_to_the_limit(different: int) -> None:
    generator = torch.Generator().manual_seed(different)
    values = torch.randn(different, 3, generator=generator)
    members = torch.cat([torch.arange(different), torch.randint(0, different, (60,), generator=generator)])
    blocks = torch.stack([values[members], values[:1].expand(len(members), -1)])
    for limit in (1, different, different + 1, different + 2, 1000):
        assert distinct(blocks, limit).tolist() == [min(different, limit), 1]


def test_blocks_of_one_projection_are_told_apart() -> None:
    direction = torch.rand(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    apart = torch.tensor([float(direction[1]), -float(direction[0])], dtype=torch.float64)
    blocks = torch.stack([torch.zeros(2, dtype=torch.float64), apart])[None]
    assert distinct(blocks, 9).tolist() == [2]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
def test_the_nearest_centroid_is_that_of_all_distances(
    weighted: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lloydmax.codebook.blocks._CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    points, centroids = (torch.randn(2, n, 4, generator=generator).double() for n in (37, 6))
    importance = torch.rand(2, 37, 4, generator=generator).double() if weighted else None
    codes, least = nearest(features(points, importance), centroids)
    weights = torch.ones_like(points) if importance is None else importance
    distances = (weights[:, :, None] * (points[:, :, None] - centroids[:, None]).square()).sum(-1)
    assert torch.equal(codes, distances.argmin(-1))
    torch.testing.assert_close(least, distances.amin(-1) - (weights * points.square()).sum(-1))
