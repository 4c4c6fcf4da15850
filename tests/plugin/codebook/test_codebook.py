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


def test_the_ratio_of_signal_to_noise_is_in_decibels() -> None:
    codebook = Codebook(torch.tensor([1.0, 3.0]), torch.tensor([[0, 1]], dtype=torch.uint8))
    assert codebook.snr(torch.tensor([[1.6, 3.0]])) == pytest.approx(15.0666, abs=1e-4)  # 10 log10(11.56 / 0.36)
    assert codebook.snr(torch.tensor([[1.0, 3.0]])) == float("inf")
    assert codebook.starves(torch.tensor([[0.4, 1.4]])) and not codebook.starves(torch.tensor([[0.6, 1.6]]))
    assert codebook.mse(torch.tensor([[1.5, 3.0]])) == 0.125


def test_a_rare_code_costs_more_bits_and_bears_its_centroid() -> None:
    codes = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1], dtype=torch.uint8)
    priced = Codebook(torch.tensor([1.0, 2.0, 3.0]), codes, price=0.1).priced_bits()
    assert priced.dtype == torch.float64
    assert priced[0] == pytest.approx(16 / 6 + 0.415037) and priced[1] == pytest.approx(16 / 2 + 2)
    assert priced[2] == pytest.approx(16 / 0.01 + 9.643856), "nearly, but not quite, without members"


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_blocks_are_given_to_their_nearest_centroid(granularity: str) -> None:
    weight = 5 + torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    shape = (4, 2) if granularity == "tensor" else (3, 4, 2)
    table = 5 + torch.randn(shape, generator=torch.Generator().manual_seed(1))
    start = Codebook(table, torch.zeros(3, 4, dtype=torch.uint8), granularity, block=2, shape=(3, 8))
    found = start.reassigned(weight)
    for channel, row in enumerate(weight.view(3, 4, 2)):
        centroids = table if granularity == "tensor" else table[channel]
        assert found.codes[channel].tolist() == torch.cdist(row, centroids).argmin(1).tolist()
