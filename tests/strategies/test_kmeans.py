"""The quantizer ``kmeans``: quality against the optimum, exactness, granularity, dtypes, determinism."""

from __future__ import annotations

import itertools

import kmeans1d
import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax import Codebook
from lloydmax_strategies.clustering.device_scan import DeviceScan
from lloydmax_strategies.clustering.histogram import Histogram
from lloydmax_strategies.kmeans import KMeans, lloydmax_quantizers
from torch import Tensor

LARGE = 70_000  # goes through the histogram
SHAPES = {
    "gaussian": lambda r, n: r.normal(size=n) * 0.02,
    "laplace": lambda r, n: r.laplace(size=n),
    "student 2": lambda r, n: r.standard_t(2, n) * 0.02,
    "student 5": lambda r, n: r.standard_t(5, n) * 0.02,
    "uniform": lambda r, n: r.random(n) - 0.5,
    "two modes": lambda r, n: r.choice([-1.0, 1.0], n) + 1e-3 * r.normal(size=n),
    "mostly zero": lambda r, n: np.where(r.random(n) < 0.9, 0, r.normal(size=n)),
    "positive": lambda r, n: np.abs(r.normal(size=n)),
    "far from zero": lambda r, n: 1 + 1e-3 * r.normal(size=n),
    "small": lambda r, n: 4e-5 * r.normal(size=n),
    "beyond float16": lambda r, n: 1e5 * r.normal(size=n),
    "two scales": lambda r, n: r.choice([1e-8, 1e3], n) * r.normal(size=n),
    "subnormal": lambda r, n: 1e-40 * r.normal(size=n),
    "an outlier": lambda r, n: np.append(r.normal(size=n - 1) * 0.02, 1e4),
    "integers": lambda r, n: r.integers(-400, 400, n),
    "clustered": lambda r, n: r.normal(size=40)[r.integers(0, 40, n)] + 1e-5 * r.normal(size=n),
    "many decades": lambda r, n: 10 ** r.uniform(-12, 0, n) * r.choice([-1, 1], n),
    "near the end of float32": lambda r, n: np.clip(r.normal(size=n), -3, 3) * 1e38,
}


def draw(shape: str, n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(SHAPES[shape](np.random.default_rng(seed), n).astype(np.float32))


def fit(
    weight: Tensor, k: int, granularity: str = "tensor", importance: Tensor | None = None, axis: int = 0
) -> Codebook:
    return KMeans(KMeans.Options(centroids=k, granularity=granularity)).fit(weight, importance=importance, axis=axis)


def optimum(weight: Tensor, k: int) -> float:
    """The least mean squared error, by the exact dynamic programme of kmeans1d."""
    values = weight.double().numpy().ravel()
    codes = np.asarray(kmeans1d.cluster(values, k).clusters)
    count = np.maximum(np.bincount(codes, minlength=k), 1)
    mean = np.bincount(codes, values, k) / count
    return float(np.mean((values - mean[codes]) ** 2))


def weighted_optimum(weight: Tensor, importance: Tensor, k: int) -> float:
    """The same with importance, by a dynamic programme over all pairs of borders."""
    order = weight.argsort()
    values, mass = weight[order].double().numpy(), importance[order].double().numpy()
    n, s, q = (np.concatenate([[0], np.cumsum(x)]) for x in (mass, mass * values, mass * values**2))
    n, s, q = (np.subtract.outer(x, x).T for x in (n, s, q))
    cost = np.where(n > 0, q - s**2 / np.where(n > 0, n, 1), np.where(np.tri(len(n), k=-1) > 0, np.inf, 0))
    cost[np.tri(len(n), k=-1) > 0] = np.inf
    best = cost[0]
    for _ in range(k - 1):
        best = (best[:, None] + cost).min(axis=0)
    return float(best[-1] / mass.sum())


def excess_distance(codebook: Codebook, weight: Tensor) -> Tensor:
    """How much farther the chosen centroid is than the nearest one, over the gap between centroids."""
    centroids, values = codebook.centroids.double(), weight.double().reshape(-1)
    at = torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2)
    chosen = centroids[codebook.codes.long().reshape(-1)]
    gap = centroids.diff().min() if len(centroids) > 1 else torch.tensor(1.0)
    return ((values - chosen).abs() - (values - centroids[at]).abs()) / gap


@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_optimal_up_to_a_thousandth(shape: str) -> None:
    for n, ks in ((5000, (2, 16, 100)), (LARGE, (3, 32))):
        weight = draw(shape, n)
        for k in ks:
            assert fit(weight, k).mse(weight) <= 1.001 * optimum(weight, k), (n, k)


def test_error_does_not_depend_on_the_path() -> None:
    """The histogram gives for 256 centroids what the sorted values give."""
    weight = draw("student 5", 3 * LARGE)
    sorted_values = fit(weight.view(1, -1), 256, "channel")
    assert fit(weight, 256).mse(weight) <= 1.0005 * sorted_values.mse(weight.view(1, -1))


@pytest.mark.parametrize("shape", ["student 2", "far from zero", "mostly zero", "two modes"])
@pytest.mark.parametrize("n", [5000, LARGE])
def test_codes_are_nearest_and_centroids_are_means(shape: str, n: int) -> None:
    weight = draw(shape, n)
    for k in (2, 16, 256):
        codebook = fit(weight, k)
        wrong = excess_distance(codebook, weight)
        assert (wrong > 0).double().mean() <= (1e-3 if n > 5000 else 0)
        assert wrong.max() <= 1e-2
        count = codebook.member_counts().double()
        assert (count > 0).all()
        mean = torch.zeros(k, dtype=torch.float64).index_add_(0, codebook.codes.int(), weight.double()) / count
        torch.testing.assert_close(codebook.centroids.double(), mean, rtol=2e-7, atol=1e-12)
        assert (codebook.centroids.diff() > 0).all()


@pytest.mark.parametrize("n", [3000, LARGE])
@pytest.mark.parametrize("k", [7, 8, 100])
def test_few_distinct_values_are_kept_exactly(n: int, k: int) -> None:
    values = torch.tensor([-3.0, -1e-7, -0.0, 0.0, 1e-3, 1.0000001, 1.0, 7e4])
    weight = values[torch.arange(n) % 8]
    codebook = fit(weight, k)
    assert codebook.k == 7
    assert torch.equal(codebook.dequantize(), weight)
    assert torch.equal(codebook.centroids, values.unique())


@given(st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=9), st.integers(1, 5), st.data())
@settings(max_examples=100, deadline=None)
def test_weighted_fit_is_the_best_of_all_partitions(values: list[float], k: int, data: st.DataObject) -> None:
    masses = data.draw(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0, 1000.0]), min_size=len(values), max_size=len(values))
    )
    masses[0] = masses[0] or 1.0
    weight, importance = torch.tensor(values), torch.tensor(masses)
    codebook = fit(weight, k, importance=importance)
    pairs = sorted((v, m) for v, m in zip(values, masses, strict=True) if m > 0)
    best = min(
        sum(_spread(pairs[a:b]) for a, b in itertools.pairwise((0, *cut, len(pairs))))
        for cut in itertools.combinations_with_replacement(range(len(pairs) + 1), k - 1)
    )
    assert codebook.mse(weight, importance) * sum(masses) <= best * 1.0001 + 1e-6
    assert excess_distance(codebook, weight).max() <= 1e-5


def _spread(pairs: list[tuple[float, float]]) -> float:
    if not pairs:
        return 0.0
    values, masses = np.array(pairs).T
    return float((masses * (values - (values * masses).sum() / masses.sum()) ** 2).sum())


@pytest.mark.parametrize("n", [400, LARGE])
def test_importance_with_heavy_tails(n: int) -> None:
    weight = draw("gaussian", n)
    importance = torch.from_numpy(np.random.default_rng(1).pareto(1.0, n).astype(np.float32))
    importance[::3] = 0
    for k in (1, 2, 16, 64):
        codebook = fit(weight, k, importance=importance)
        if n == LARGE:
            rows = weight.view(1, -1), importance.view(1, -1)
            reference = fit(rows[0], k, "channel", rows[1]).mse(*rows)
        else:
            reference = weighted_optimum(weight, importance, k)
        assert codebook.mse(weight, importance) <= 1.001 * reference + 1e-12
        assert excess_distance(codebook, weight).max() <= 1e-2


@pytest.mark.parametrize("n", [1, 5000, LARGE])
def test_one_centroid_is_the_mean(n: int) -> None:
    weight, importance = draw("positive", n), torch.arange(1.0, n + 1)
    torch.testing.assert_close(fit(weight, 1).centroids.double(), weight.double().mean().view(1), rtol=1e-7, atol=0)
    weighted = (weight.double() * importance.double()).sum() / importance.double().sum()
    found = fit(weight, 1, importance=importance).centroids.double()
    torch.testing.assert_close(found, weighted.view(1), rtol=2e-7, atol=0)


@pytest.mark.parametrize("shape,k", [((32, 3, 3, 3), 4), ((40, 300), 16), ((6, 9), 4), ((5, 700), 64)])
def test_every_channel_gets_its_optimum(shape: tuple[int, ...], k: int) -> None:
    weight = torch.from_numpy(np.random.default_rng(3).standard_t(4, shape).astype(np.float32))
    codebook = fit(weight, k, "channel")
    assert codebook.centroids.shape == (shape[0], k)
    for row, dense in zip(weight, codebook.dequantize(), strict=True):
        assert (row - dense).double().square().mean() <= 1.002 * optimum(row, k) + 1e-12


@pytest.mark.parametrize("k", [3, 16, 40])
def test_values_that_occur_often_do_not_spoil_a_channel(k: int) -> None:
    weight = (torch.randn(32, 80, generator=torch.Generator().manual_seed(0)) * 20).round() + 0.5
    book = fit(weight, k, "channel")
    for row, row_centroids, decoded in zip(weight, book.centroids, book.dequantize(), strict=True):
        nearest = (row[:, None] - row_centroids).abs().amin(1)
        torch.testing.assert_close((row - decoded).abs(), nearest)


def test_groups_share_a_codebook_and_the_last_may_be_smaller() -> None:
    weight = draw("student 5", 10 * 6 * 4).view(10, 6, 4)
    codebook = fit(weight, 5, "group:4")
    assert codebook.centroids.shape == (3, 5)
    for centroids, start in zip(codebook.centroids, (0, 4, 8), strict=True):
        alone = fit(weight[start : start + 4], 5)
        assert torch.equal(alone.centroids, centroids)
        assert torch.equal(alone.codes, codebook.codes[start : start + 4])
    swapped = fit(weight.transpose(0, 1), 5, "group:4", axis=1)
    assert torch.equal(swapped.centroids, codebook.centroids)
    assert torch.equal(swapped.codes, codebook.codes.transpose(0, 1))
    assert torch.equal(fit(weight, 5, "group:99").centroids[0], fit(weight, 5).centroids)


def test_short_codebooks_repeat_their_last_centroid() -> None:
    weight = torch.tensor([[1.0, 2, 3, 4], [5, 5, 6, 6], [7, 7, 7, 7]])
    codebook = fit(weight, 3, "channel")
    assert codebook.centroids.shape == (3, 3)
    assert codebook.centroids[1:].tolist() == [[5, 6, 6], [7, 7, 7]]
    assert torch.equal(codebook.dequantize()[1:], weight[1:])
    assert codebook.codes[1:].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert fit(weight[1:], 8, "channel").k == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [4000, LARGE])
def test_sixteen_bit_weights(dtype: torch.dtype, n: int) -> None:
    weight = draw("student 5", n).to(dtype)
    codebook = fit(weight, 16)
    assert codebook.centroids.dtype == dtype and codebook.codes.dtype == torch.uint8
    assert codebook.mse(weight) <= 1.001 * optimum(weight.float(), 16) + 1e-3 * torch.finfo(dtype).eps * 0.02**2
    assert excess_distance(codebook, weight).max() <= 1e-2
    assert torch.equal(fit(weight, 65536).dequantize(), weight)


@pytest.mark.parametrize("n", [5000, LARGE])
def test_same_input_same_bytes_and_input_untouched(n: int) -> None:
    weight = draw("laplace", 2 * n).view(-1, 2).t()[0]
    assert not weight.is_contiguous()
    before, importance = weight.clone(), torch.rand(n, generator=torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(weight.clone())
    for mass in (None, importance):
        first, second = fit(weight, 16, importance=mass), fit(parameter, 16, importance=mass)
        assert torch.equal(first.centroids, second.centroids) and torch.equal(first.codes, second.codes)
    assert torch.equal(weight, before)
    assert not first.centroids.requires_grad


@pytest.mark.parametrize("shape", ["student 5", "two modes", "an outlier", "near the end of float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_passes_of_an_accelerator_give_the_same(shape: str, dtype: torch.dtype) -> None:
    """Run on the CPU here: other operations, the same keys, and means up to rounding."""
    weight = draw(shape, LARGE).to(dtype)
    one, other = Histogram.of(weight), Histogram.of(weight)
    other._scan = DeviceScan(weight)
    other._coarse = other._points()
    places = one._scan._held if dtype == torch.float32 else np.argsort(other._scan._order)[one._scan._held]
    assert np.abs(one._scan.mass - other._scan.mass[places]).sum() <= 1e-3 * LARGE
    for k in (2, 16, 256):
        assert other.fit(k).mse(weight) <= 1.0005 * one.fit(k).mse(weight) + 1e-30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    weight = draw("student 5", LARGE)
    first, second, cpu = fit(weight.cuda(), 16), fit(weight.cuda(), 16), fit(weight, 16)
    assert first.codes.is_cuda and torch.equal(first.codes, second.codes)
    assert torch.equal(first.centroids, second.centroids)
    assert first.mse(weight.cuda()) <= 1.0005 * cpu.mse(weight)


def test_one_histogram_serves_every_k_in_any_order() -> None:
    weight = draw("student 2", LARGE)
    histogram = Histogram.of(weight.view(100, -1))
    for k in (256, 2, 16, 700, 16):
        codebook, alone = histogram.fit(k), Histogram.of(weight).fit(k)
        assert codebook.codes.shape == (100, LARGE // 100)
        assert torch.equal(codebook.centroids, alone.centroids)
        assert histogram.error(k) == pytest.approx(codebook.mse(weight.view(100, -1)), rel=2e-2)


@pytest.mark.parametrize("k,dtype", [(256, torch.uint8), (257, torch.int16), (3000, torch.int16), (65536, torch.int32)])
def test_many_centroids(k: int, dtype: torch.dtype) -> None:
    weight = draw("gaussian", 70_000)
    codebook = fit(weight, k)
    assert codebook.codes.dtype == dtype
    assert codebook.k <= k
    assert codebook.mse(weight) <= 1.1 * 2.72 * float(weight.var()) / k**2
    assert excess_distance(codebook, weight).max() <= 1 + 1e-9


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:2"])
def test_smallest_inputs(granularity: str) -> None:
    for weight in (torch.tensor(2.5), torch.tensor([2.5]), torch.full((1, 1), 2.5)):
        codebook = fit(weight, 4, granularity)
        assert codebook.codes.shape == weight.shape
        assert torch.equal(codebook.dequantize(), weight) and codebook.k == 1


def test_options_are_checked() -> None:
    for wrong in ({"centroids": 0}, {"centroids": 65537}, {"granularity": "row"}, {"colour": 1}):
        with pytest.raises(pydantic.ValidationError):
            KMeans.Options.model_validate(wrong)
    assert lloydmax_quantizers() == {"kmeans": KMeans}
