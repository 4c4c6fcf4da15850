"""Centroids and codes of one parameter: decoded, counted, given to weights."""

from __future__ import annotations

import lloydmax
import pytest
import torch
from lloydmax.codebook.codebook import Codebook


def test_codebook_granularities_decode_on_either_axis() -> None:
    codes = torch.tensor([[0, 1, 1], [1, 0, 0]], dtype=torch.uint8)
    by_row = Codebook(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), codes, "channel")
    assert by_row.dequantize().tolist() == [[1, 2, 2], [4, 3, 3]]
    by_column = Codebook(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), codes, "group:2", axis=1)
    assert by_column.dequantize().tolist() == [[1, 2, 4], [2, 1, 3]]
    assert by_column.member_counts().tolist() == [[2, 2], [1, 1]]


@pytest.mark.parametrize(("granularity", "axis"), [("tensor", 0), ("channel", 0), ("group:2", 1)])
def test_weights_are_given_to_their_nearest_centroid(granularity: str, axis: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3)
    codebook = lloydmax.fit_codebook(weight, 4, granularity, axis=axis)
    shuffled = lloydmax.Codebook(codebook.centroids.flip(-1), codebook.codes, granularity, axis)
    found = shuffled.reassigned(weight)
    assert found.codes.shape == weight.shape and found.codes.dtype == torch.uint8
    assert found.mse(weight) <= codebook.mse(weight) + 1e-9 < shuffled.mse(weight)
