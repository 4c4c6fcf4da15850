"""A centroid that is exactly 0 for the zeros of a weight, and the others as good as they can be beside it."""

from __future__ import annotations

from typing import Any

import lloydmax
import pytest
import torch
from lloydmax_strategies.reconstruction.feedback import Factors, feedback
from torch import Tensor


def pruned(share: float, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    return weight.masked_fill(torch.rand(shape, generator=generator) < share, 0).to(dtype)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"granularity": "channel"}, {"granularity": "group:7", "axis": 1}, {"importance": True}, {"unbiased": True},
        {"price": 0.02}, {"price": 1.0}, {"quantizer": "uniform", "bits": 3},
        {"quantizer": "uniform", "bits": 4, "scheme": "asymmetric", "granularity": "channel"},
    ],
)  # fmt: skip
def test_zeros_decode_to_zero(options: dict[str, Any], dtype: torch.dtype, share: float) -> None:
    weight = pruned(share, 40, 60, dtype=dtype)
    more = {"importance": torch.rand(40, 60)} if options.get("importance") else {}
    for k in (2, 3, 8):
        found = lloydmax.fit_codebook(weight, k, **{**options, **more, "zeros": "keep"})
        assert found.zeros and bool((found.dequantize()[weight == 0] == 0).all())
        moved = weight.float() + (weight != 0) * torch.randn(40, 60)
        assert bool((found.reassigned(moved).dequantize()[weight == 0] == 0).all())


@pytest.mark.parametrize("share", [0.3, 0.75])
@pytest.mark.parametrize("k", [2, 4, 16])
def test_the_others_settle_beside_it(k: int, share: float) -> None:
    weight = pruned(share, 70_000)
    free, kept = (lloydmax.fit_codebook(weight, k, zeros=zeros) for zeros in ("free", "keep"))
    alone = lloydmax.fit_codebook(weight[weight != 0], max(k - 1, 1))
    beside = alone.mse(weight[weight != 0]) * (1 - share)
    assert kept.mse(weight) <= max(1.1 * free.mse(weight), 1.02 * beside)
    members = kept.centroids != 0
    means = torch.stack([weight[kept.codes == code].mean() for code in torch.nonzero(members)[:, 0]])
    torch.testing.assert_close(kept.centroids[members], means, atol=2e-3, rtol=0)


def test_without_zeros_or_with_one_centroid_nothing_changes() -> None:
    weight = pruned(0.0, 400)
    same = (lloydmax.fit_codebook(weight, 5, zeros=zeros) for zeros in ("keep", "free"))
    first, second = same
    assert torch.equal(first.centroids, second.centroids) and not first.zeros
    one = lloydmax.fit_codebook(pruned(0.5, 400), 1, zeros="keep")
    assert float(one.centroids) != 0 and not one.zeros
    nothing = lloydmax.fit_codebook(torch.zeros(9, 3), 4, zeros="keep")
    assert nothing.k == 1 and not bool(nothing.dequantize().any())


@pytest.mark.parametrize("granularity", ["tensor", "group:8"])
def test_blocks_that_are_zero_stay(granularity: str) -> None:
    weight = pruned(0.0, 32, 16, 9)
    weight[::2] = 0
    weight[1, 3, :5] = 0
    found = lloydmax.fit_codebook(weight, 6, granularity, block=9, zeros="keep")
    again = found.reassigned(weight + torch.randn(32, 16, 9) * (weight != 0))
    assert all(bool((book.dequantize()[::2] == 0).all()) for book in (found, again))


def test_feedback_takes_codes_that_are_given() -> None:
    weight, inputs = pruned(0.0, 1, 5, 12), torch.randn(64, 12, dtype=torch.float64)
    factors = Factors((inputs.T @ inputs)[None] / 64, 0.01)
    given = torch.full((1, 5, 12), -1)
    given[..., ::3] = 2
    codes = feedback(weight, factors, torch.linspace(-2, 2, 5), given=given)
    assert bool((codes[..., ::3] == 2).all()) and len(codes.unique()) > 2


def test_factors_of_inputs_that_hardly_vary() -> None:
    noise = torch.randn(1, 20, 20, dtype=torch.float64) * 1e-7
    factors = Factors(noise + noise.mT, 0.01)
    assert bool(torch.isfinite(factors.upper).all())
