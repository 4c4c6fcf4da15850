"""Vector codebooks: quality against scikit-learn's k-means, exactness, importance, granularity, determinism."""

from __future__ import annotations

import lloydmax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax import Codebook
from lloydmax.extend import Layout
from lloydmax_strategies.clustering.vectors import fit_blocks
from torch import Tensor


def plain_lloyd(points: Tensor, k: int, starts: int) -> float:
    """Mean squared error of the best of several runs of textbook k-means."""
    best, generator = float("inf"), torch.Generator().manual_seed(1)
    for _ in range(starts):
        means = points[torch.randperm(len(points), generator=generator)[:k]].clone()
        for _ in range(60):
            codes = torch.cdist(points, means, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
            for code in codes.unique().tolist():
                means[code] = points[codes == code].mean(0)
        best = min(best, float((points - means[codes]).square().mean()))
    return best


@pytest.mark.parametrize(("d", "k"), [(2, 16), (4, 16), (9, 8)])
def test_the_error_is_that_of_several_textbook_runs(d: int, k: int) -> None:
    weight = torch.randn(40, 36, generator=torch.Generator().manual_seed(0)) ** 3
    found = lloydmax.fit_codebook(weight, k, block=d)
    assert found.centroids.shape == (k, d) and found.codes.shape == (40, 36 // d) and found.bits_per_weight <= 4 / d
    assert found.mse(weight) <= 1.03 * plain_lloyd(weight.reshape(-1, d), k, 5)


def test_a_sample_serves_a_large_weight() -> None:
    weight = torch.randn(500, 400, generator=torch.Generator().manual_seed(0))
    found = lloydmax.fit_codebook(weight, 16, block=2)
    assert found.mse(weight) < 0.1085
    assert torch.equal(found.codes, found.reassigned(weight).codes)
    again = lloydmax.fit_codebook(weight, 16, block=2)
    assert torch.equal(found.codes, again.codes) and torch.equal(found.centroids, again.centroids)


def test_an_offset_costs_no_precision() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 1e-3
    near, far = lloydmax.fit_codebook(weight, 16, block=4), lloydmax.fit_codebook(weight + 1, 16, block=4)
    assert far.mse(weight + 1) < 1.05 * near.mse(weight)


def test_few_distinct_blocks_are_kept_exactly() -> None:
    patterns = torch.randn(5, 3)
    weight = patterns[torch.arange(60) % 5].reshape(10, 18)
    found = lloydmax.fit_codebook(weight, 16, block=3)
    assert found.k == 5 and torch.equal(found.dequantize(), weight) and found.mse(weight) == 0
    mixed = torch.cat([weight, torch.randn(10, 18)])
    rows = lloydmax.fit_codebook(mixed, 5, "channel", block=3)
    assert torch.equal(rows.dequantize()[:10], weight) and rows.centroids.shape == (20, 5, 3)
    assert lloydmax.fit_codebook(torch.ones(4, 6), 9, block=2).k == 1


def test_importance_moves_the_centroids() -> None:
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    importance = torch.rand(64, 32, generator=torch.Generator().manual_seed(1)) ** 4
    plain, weighted = (lloydmax.fit_codebook(weight, 16, importance=h, block=4) for h in (None, importance))
    assert weighted.mse(weight, importance) < 0.8 * plain.mse(weight, importance)
    scaled = lloydmax.fit_codebook(weight, 16, importance=importance * 1e-12, block=4)
    assert scaled.mse(weight, importance) == pytest.approx(weighted.mse(weight, importance), rel=1e-3)
    some = torch.zeros(64, 32)
    some[:, :4] = 1
    assert lloydmax.fit_codebook(weight, 64, importance=some, block=4).mse(weight, some) < 1e-9
    rows = torch.zeros(64, 32)
    rows[1] = 1
    assert bool(torch.isfinite(lloydmax.fit_codebook(weight, 4, "channel", importance=rows, block=2).centroids).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("granularity", "axis"), [("tensor", 1), ("channel", 0), ("channel", 1), ("group:4", 1)])
def test_granularity_axis_and_dtype(granularity: str, axis: int, dtype: torch.dtype) -> None:
    weight = torch.randn(6, 10, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = lloydmax.fit_codebook(weight, 4, granularity, axis=axis, block=9)
    channels = weight.shape[axis]
    books = {"tensor": (), "channel": (channels,), "group:4": (-(-channels // 4),)}[granularity]
    assert found.centroids.shape == (*books, 4, 9) and found.centroids.dtype == dtype
    assert found.codes.shape == (channels, weight.numel() // channels // 9)
    dense = found.dequantize()
    assert dense.shape == weight.shape and dense.is_contiguous()
    moved, books = weight.movedim(axis, 0), found.centroids.reshape(-1, 4, 9)
    for channel in range(channels):
        book = books[channel // {"tensor": channels, "channel": 1, "group:4": 4}[granularity]].double()
        blocks = moved[channel].reshape(-1, 9).double()
        nearest = book[torch.cdist(blocks, book).argmin(1)]
        assert torch.equal(dense.movedim(axis, 0)[channel].reshape(-1, 9).double(), nearest)
    assert torch.equal(found.reassigned(weight).codes, found.codes)
    counts = found.member_counts()
    assert counts.shape == found.centroids.shape[:-1] and counts.sum() == found.codes.numel()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(2, 4), st.integers(1, 9),
    st.sampled_from(["tensor", "channel", "group:2"]), st.integers(0, 1), st.data(),
)  # fmt: skip
def test_any_small_weight(rows, blocks, d, k, granularity, axis, data) -> None:  # type: ignore[no-untyped-def]
    values = data.draw(st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=rows * blocks * d))
    flat = torch.tensor((values * (rows * blocks * d))[: rows * blocks * d])
    weight = flat.view(rows, blocks * d) if axis == 0 else flat.view(rows, blocks * d).T.contiguous()
    found = fit_blocks(weight, None, Layout(tuple(weight.shape), k, granularity, axis, d))
    assert found.k <= k and int(found.codes.max()) < found.k
    assert bool(torch.isfinite(found.centroids).all())
    assert found.mse(weight) <= float(weight.double().var(correction=0)) * 1.0001 + 1e-9
    assert found.reassigned(weight).mse(weight) <= found.mse(weight) * (1 + 1e-5) + 1e-6


def test_blocks_that_do_not_divide_are_refused() -> None:
    with pytest.raises(lloydmax.FitError, match=r"\(4, 3, 3, 3\) has 27 .* blocks of 4 .*: 1, 3, 9, 27"):
        lloydmax.fit_codebook(torch.randn(4, 3, 3, 3), 4, block=4)
    with pytest.raises(lloydmax.FitError, match="block"):
        lloydmax.fit_codebook(torch.randn(4, 4), 4, block=0)
    with pytest.raises(lloydmax.FitError, match="do not fit blocks of 2"):
        Codebook(torch.randn(4, 2), torch.zeros(3, 3, dtype=torch.uint8), block=2, shape=(3, 4))
    with pytest.raises(lloydmax.FitError, match="blocks of 2"):
        lloydmax.fit_codebook(torch.tensor(3.0), 4, block=2)
