"""Evenly spaced codebooks."""

from __future__ import annotations

import pytest
import torch
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import even, spread


@pytest.mark.parametrize("zero", [0, 7, 15])
def test_evenly_spaced_codebooks_are_found_whatever_level_is_zero(zero: int) -> None:
    rows = torch.tensor([[0.037, zero], [1.3e-4, 15 - zero]])
    centroids = spread(rows, 16)
    codes = torch.zeros(2, 3, dtype=torch.uint8)
    found = even(Codebook(centroids, codes, "channel"))
    assert found is not None and torch.equal(found, rows)
    centroids[1, 3] = centroids[1, 3].nextafter(torch.tensor(9.0))
    assert even(Codebook(centroids, codes, "channel")) is None
