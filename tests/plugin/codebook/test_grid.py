"""Evenly spaced codebooks."""

from __future__ import annotations

import pytest
import torch
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import even, grid, spread


@pytest.mark.parametrize("zero", [0, 7, 15])
def test_evenly_spaced_codebooks_are_found_whatever_level_is_zero(zero: int) -> None:
    rows = torch.tensor([[0.037, zero], [1.3e-4, 15 - zero]])
    centroids = spread(rows, 16)
    codes = torch.zeros(2, 3, dtype=torch.uint8)
    found = even(Codebook(centroids, codes, "channel"))
    assert found is not None and torch.equal(found, rows)
    centroids[1, 3] = centroids[1, 3].nextafter(torch.tensor(9.0))
    assert even(Codebook(centroids, codes, "channel")) is None


@pytest.mark.parametrize("zero", [-3, 0, 5])
def test_a_tensor_quantized_as_a_whole_is_an_even_codebook(zero: int) -> None:
    weight = torch.quantize_per_tensor(torch.linspace(-0.4, 0.5, 24).view(4, 6), 0.037, zero, torch.qint8)
    found = grid(weight, 256, -128)
    assert found.k == 256 and found.codes.dtype == torch.uint8 and found.granularity == "tensor"
    assert torch.equal(found.codes.int(), weight.int_repr().int() + 128)
    assert torch.allclose(found.dequantize(), weight.dequantize(), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_quantized_on_their_own_have_a_codebook_each(axis: int) -> None:
    count = (4, 6)[axis]
    scales, zeros = torch.linspace(0.01, 0.09, count).double(), torch.arange(count) - 2
    weight = torch.quantize_per_channel(torch.linspace(-0.4, 0.5, 24).view(4, 6), scales, zeros, axis, torch.qint8)
    found = grid(weight, 256, -128)
    assert (found.granularity, found.axis, tuple(found.centroids.shape)) == ("channel", axis, (count, 256))
    assert torch.allclose(found.dequantize(), weight.dequantize(), rtol=1e-5, atol=1e-7)
