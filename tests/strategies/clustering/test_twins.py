"""The native fit and its twins in Python give the same centroids and codes, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax.extend import native
from lloydmax_strategies.clustering import histogram, priced, rows, scan
from lloydmax_strategies.kmeans import KMeans
from torch import Tensor

pytestmark = pytest.mark.skipif(not native.active(), reason="needs the core")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DRAWS = {
    "heavy tails": lambda r, n: r.standard_t(2, n),
    "few values": lambda r, n: r.integers(-9, 9, n) / 4,
    "mostly zero": lambda r, n: np.where(r.random(n) < 0.9, -0.0, r.normal(size=n)),
    "two scales": lambda r, n: r.choice([1e-8, 1e3], n) * r.normal(size=n),
    "subnormal": lambda r, n: 1e-40 * r.normal(size=n),
    "huge": lambda r, n: np.clip(r.normal(size=n), -3, 3) * 1e38,
    "clustered": lambda r, n: r.normal(size=9)[r.integers(0, 9, n)] + 1e-6 * r.normal(size=n),
}


def _draw(kind: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    values = DRAWS[kind](np.random.default_rng(seed), int(np.prod(shape))).astype(np.float32).reshape(shape)
    return torch.from_numpy(values).to(dtype).nan_to_num(0, 6e4, -6e4)


def _masses(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(np.where(generator.random(shape) < 0.3, 0, generator.pareto(1, shape)).astype(np.float32))


@given(
    st.sampled_from(list(DRAWS)), st.integers(1, 6), st.integers(1, 400), st.integers(1, 70), st.sampled_from(DTYPES),
    st.booleans(), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_rows(kind: str, n: int, m: int, k: int, dtype: torch.dtype, weighed: bool, seed: int) -> None:
    weight, mass = _draw(kind, (n, m), seed, dtype), _masses((n, m), seed) if weighed else None
    twin = rows.fit_in_python(weight, mass, min(k, m))
    for one, other in zip(rows.fit_rows(weight, mass, k), twin, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("kind", DRAWS)
def test_long_rows_go_through_all_levels(kind: str) -> None:
    weight = _draw(kind, (2, 6000), 5, torch.float32)
    for k in (5, 40, 300):
        twin = rows.fit_in_python(weight, None, k)
        assert all(map(torch.equal, rows.fit_rows(weight, None, k), twin))


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("weighed", [False, True])
def test_large_weights(kind: str, weighed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        weight = _draw(kind, (70_000,), 7, dtype)
        mass = _masses((70_000,), 7) if weighed else None
        found = {}
        for active in (True, False):
            monkeypatch.setattr(native, "active", lambda active=active: active)
            made = KMeans(KMeans.Options(centroids=2)).fit_many(weight, (2, 33, 300), importance=mass)
            found[active] = [(book.centroids, book.codes) for book in made]
        for one, other in zip(found[True], found[False], strict=True):
            assert all(map(torch.equal, one, other))


def test_sums_of_more_than_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    n = (1 << 20) + 12_345
    values = _draw("heavy tails", (n,), 3, torch.float32).numpy()
    mass = np.abs(values)
    for importance in (None, mass):
        keys, others = np.empty((2, n), np.uint16)
        one = native.scan(values, importance, scan.MULTIPLES, keys)
        assert all(map(np.array_equal, one, scan.scan_in_python(values, importance, scan.MULTIPLES, others)))
        assert np.array_equal(keys, others)
        assert np.array_equal(native.count_keys(keys, importance), scan.count_keys(keys, importance))


def test_threads_change_nothing() -> None:
    weight, threads = _draw("heavy tails", (97, 800), 1, torch.float32), torch.get_num_threads()
    alone = rows.fit_rows(weight, None, 16)
    try:
        torch.set_num_threads(3)
        shared = rows.fit_rows(weight, None, 16)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, alone, shared))


def test_sizes_are_checked_before_the_call() -> None:
    with pytest.raises(ValueError, match="importance has shape"):
        native.fit_rows(torch.zeros(2, 3), torch.zeros(2, 2), 2, torch.uint8)
    keys = np.zeros(5, np.uint16)
    with pytest.raises(ValueError, match="differ in number"):
        native.count_keys(keys, np.zeros(4, np.float32))
    with pytest.raises(TypeError, match="float64 in place of float32"):
        native.count_keys(keys, np.zeros(5))
    points = np.arange(4.0)
    with pytest.raises(ValueError, match="4 centroids of 4 points"):
        native.solve_points(points, points, points + 1, points, 4, 64, torch.float32)


def test_points_are_solved_alike() -> None:
    generator = np.random.default_rng(0)
    low = np.sort(generator.normal(size=3000))
    high = np.minimum(low + 1e-3, np.append(low[1:], np.inf))
    mass = generator.pareto(1, 3000) + 0.1
    points = histogram.Points(low, high, mass, mass * (low + high) / 2)
    for k in (1, 2, 16, 300):
        for dtype in (*DTYPES, torch.float64):
            one, other = points.solve(k, dtype), points.solve_in_python(k, max(64, 8192 // k), dtype)
            assert torch.equal(one[0], other[0]) and one[1] == other[1]


@pytest.mark.parametrize("kind", DRAWS)
def test_prices(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, found = _draw(kind, (9000,), 11, torch.float32), {}
    square = max(float(weight.double().square().mean()), 1e-30)
    for active in (True, False):
        monkeypatch.setattr(native, "active", lambda active=active: active)
        made = [
            KMeans(KMeans.Options(centroids=k, price=square * p)).fit(weight) for k in (4, 300) for p in (1e-1, 1e-4)
        ]
        found[active] = [(book.centroids, book.codes) for book in made]
    for one, other in zip(found[True], found[False], strict=True):
        assert all(map(torch.equal, one, other))


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=9))
def test_the_logarithm_is_one(values: list[float]) -> None:
    assert np.allclose(priced.log_two(np.array(values)), np.log2(values), rtol=2e-15, atol=2e-15)


def test_prices_of_few_points_that_crowd_each_other_out() -> None:
    generator = np.random.default_rng(2)
    for n, k in ((1, 1), (2, 2), (50, 40), (400, 300)):
        values = np.sort(generator.normal(size=n))
        mass = generator.pareto(1, n) + 1e-9
        points = histogram.Points(values, values, mass, mass * values)
        tables = points.low, points.high, points.mass, points.total, points.moment
        start = np.sort(generator.choice(values, k))
        for price in (1e-6, 1e-2, 1.0):
            one = native.price_points(tables, points.centre, start, price, 16.0, 60)
            assert all(map(np.array_equal, one, priced.settled_in_python(points, start, price, 60)))
