"""k-means with a price on bits: the assignment, the centroids, and the trade of error for entropy."""

from __future__ import annotations

import math

import lloydmax
import pytest
import torch
from lloydmax import FitError
from lloydmax_strategies.kmeans import KMeans
from torch import Tensor


def weights(count: int) -> Tensor:
    """Laplacian values, about as layers have them."""
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0)) - 0.5
    return -0.05 * uniform.sign() * (1 - 2 * uniform.abs()).clamp(min=1e-7).log()


def fitted(weight: Tensor, price: float, k: int = 64) -> lloydmax.Codebook:
    """The codebook of a weight at a price."""
    return lloydmax.fit_codebook(weight, k, price=price)


def shrunk(weight: Tensor, price: float) -> lloydmax.Codebook:
    """The same codes with the mean of its members as every centroid, and the price that they were chosen at."""
    found = fitted(weight, price)
    means = torch.stack([weight[found.codes == code].double().mean() for code in range(found.k)])
    return lloydmax.Codebook(means.float(), found.codes, price=price)


@pytest.mark.parametrize("count", [4000, 200_000])
def test_every_weight_has_the_code_that_costs_least(count: int) -> None:
    weight, price = weights(count), 2e-4
    found, means = fitted(weight, price), shrunk(weight, price)
    bits = -(found.member_counts().double() / count).log2()
    cost = (weight.double()[:, None] - means.centroids.double()) ** 2 + price * bits
    best = cost.amin(1)
    own = cost.gather(1, found.codes.long()[:, None])[:, 0]
    assert float((own - best).mean()) < 2e-3 * float(best.mean())
    exact = torch.stack([weight[found.codes == code].double().mean() for code in range(found.k)])
    assert torch.allclose(means.centroids.double(), exact, atol=1e-6)


@pytest.mark.parametrize("price", [1e-5, 2e-4, 2e-3])
def test_errors_do_not_make_the_weight_smaller(price: float) -> None:
    weight = weights(100_000).double()
    decoded = fitted(weight.float(), price).dequantize().double()
    assert math.isclose(float(decoded @ weight), float(weight @ weight), rel_tol=1e-5)
    means = shrunk(weight.float(), price).dequantize().double()
    assert float(means @ weight) < (1 - 30 * price) * float(weight @ weight)


@pytest.mark.parametrize("price", [1e-5, 2e-4, 2e-3])
def test_it_beats_plain_kmeans_at_the_same_entropy(price: float) -> None:
    weight = weights(200_000)
    found = shrunk(weight, price)
    plain = [lloydmax.fit_codebook(weight, k) for k in range(2, 65, 4)]
    objective = [c.mse(weight) + price * c.entropy for c in (found, *plain)]
    assert objective[0] <= (1.002 if price < 1e-4 else 0.99) * min(objective[1:])


def test_a_higher_price_buys_fewer_bits_and_the_rate_tells_how_many() -> None:
    weight = weights(100_000)
    rate = KMeans(KMeans.Options(centroids=64)).rate(weight)
    found = [fitted(weight, price) for price in (1e-6, 1e-4, 1e-3, 1e-2)]
    entropies = [codebook.entropy for codebook in found]
    assert entropies == sorted(entropies, reverse=True) and entropies[0] > entropies[-1] + 2
    for price, codebook in zip((1e-6, 1e-4, 1e-3, 1e-2), found, strict=True):
        bits, gain = rate(price)
        assert math.isclose(bits, codebook.entropy, abs_tol=0.02)
        share = shrunk(weight, price).mse(weight) / float(weight.double().square().mean())
        assert math.isclose(share, 1 - gain, rel_tol=0.03, abs_tol=1e-3)


@pytest.mark.parametrize("price", [2e-5, 2e-4])
def test_a_few_outliers_do_not_spoil_the_rest(price: float) -> None:
    weight = weights(100_000)
    alone = shrunk(weight, price)
    weight[:3] = torch.tensor([4.0, -6.0, 9.0])
    found = shrunk(weight, price)
    assert found.k <= 64 and found.mse(weight) + price * found.entropy < 1.01 * (
        alone.mse(weights(100_000)) + price * alone.entropy
    )


def test_a_ruinous_price_leaves_the_mean() -> None:
    found = fitted(weights(5000), 1e3)
    assert found.k == 1 and found.entropy == 0
    assert torch.allclose(found.centroids, weights(5000).mean(), atol=1e-6)


@pytest.mark.parametrize("weight", [torch.full((300,), 0.25), torch.tensor([1.0, -1.0] * 50), torch.zeros(7)])
def test_few_distinct_values_are_kept(weight: Tensor) -> None:
    found = fitted(weight, 1e-6)
    assert torch.allclose(found.dequantize(), weight) and found.k == len(weight.unique())


def test_the_same_weight_gives_the_same_bytes_in_any_dtype() -> None:
    weight = weights(70_000)
    first, second = fitted(weight, 1e-4), fitted(weight, 1e-4)
    assert torch.equal(first.codes, second.codes) and torch.equal(first.centroids, second.centroids)
    half = fitted(weight.half(), 1e-4)
    assert half.centroids.dtype == torch.float16 and abs(half.entropy - first.entropy) < 0.02


def test_reassignment_keeps_the_price_in_mind() -> None:
    weight = weights(50_000)
    found = shrunk(weight, 5e-4)
    again = found.reassigned(weight)
    assert float((again.codes != found.codes).float().mean()) < 0.01
    free = lloydmax.Codebook(found.centroids, found.codes).reassigned(weight)
    assert free.entropy > again.entropy + 0.05 and free.mse(weight) < again.mse(weight)


@pytest.mark.parametrize("options", [{"granularity": "channel"}, {"block": 2}])
def test_a_price_is_for_one_scalar_codebook(options: dict[str, object]) -> None:
    with pytest.raises(FitError, match="a price needs granularity 'tensor' and block 1"):
        lloydmax.fit_codebook(torch.randn(8, 8), 4, price=1e-3, **options)
