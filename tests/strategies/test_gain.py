"""Unbiased codebooks: errors that do not make weights smaller, at every granularity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax import demo
from lloydmax_strategies.clustering.gain import suited, unbiased
from torch import Tensor


@pytest.fixture
def weight() -> Tensor:
    """A convolution's, whose output channels differ in scale."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 8, 3, 3, generator=generator) * torch.logspace(-2, 0, 12).view(-1, 1, 1, 1)


def products(codebook: lloydmax.Codebook, weight: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Decoded x exact and exact x exact, summed over so many output channels each."""
    decoded, exact = (x.double().movedim(codebook.axis, 0).flatten(1) for x in (codebook.dequantize(), weight))
    each = ((decoded * exact).sum(1), exact.square().sum(1))
    return tuple(torch.stack([part.sum() for part in x.split(rows)]) for x in each)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, 12),
        ({"granularity": "channel"}, 1),
        ({"granularity": "channel", "axis": 1}, 1),
        ({"granularity": "group:5"}, 5),
        ({"block": 2}, 12),
        ({"block": 2, "granularity": "group:5"}, 5),
    ],
)
def test_the_projection_on_the_weight_is_the_weight(weight: Tensor, options: dict[str, Any], rows: int) -> None:
    found = lloydmax.fit_codebook(weight, 4, **options, unbiased=True)
    decoded, exact = products(found, weight, rows)
    assert torch.allclose(decoded, exact, rtol=1e-5)
    means = lloydmax.fit_codebook(weight, 4, **options)
    assert torch.equal(found.codes, means.codes)
    decoded, exact = products(means, weight, rows)
    assert bool((decoded < 0.97 * exact).all())


def test_codes_are_the_nearest_to_the_weight_that_suits_the_centroids(weight: Tensor) -> None:
    found = lloydmax.fit_codebook(weight, 3, "channel", unbiased=True)
    again, naive = (found.reassigned(w) for w in (suited(found, weight), weight))
    assert torch.equal(again.codes, found.codes) and not torch.equal(naive.codes, found.codes)
    means = lloydmax.fit_codebook(weight, 3, "channel")
    assert torch.allclose(suited(means, weight), weight, rtol=1e-4)


@pytest.mark.parametrize("weight", [torch.zeros(5, 4), torch.full((5, 4), 0.3), torch.eye(4)])
def test_weights_without_errors_stay(weight: Tensor) -> None:
    for k in (1, 2):
        found = lloydmax.fit_codebook(weight, k, unbiased=True)
        assert torch.equal(found.dequantize(), lloydmax.fit_codebook(weight, k).dequantize())


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_codebook_that_holds_next_to_nothing_costs_less_error_than_zeros(granularity: str) -> None:
    values = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    codes = (torch.arange(4096) % 2).to(torch.uint8).view(8, 512)
    layout = lloydmax.Codebook(torch.zeros(8, 2) if granularity == "channel" else torch.zeros(2), codes, granularity)
    groups = values.view(8 if granularity == "channel" else 1, -1)
    owned = codes.view(groups.shape)
    pairs = list(zip(groups, owned, strict=True))
    means = torch.stack([torch.stack([group[c == code].mean() for code in (0, 1)]) for group, c in pairs])
    made = replace(layout, centroids=means if granularity == "channel" else means[0], price=2.0)
    found = unbiased(made, values)
    assert torch.allclose(found.centroids, 1.98 * made.centroids) and found.price == pytest.approx(2 * 1.98**2)
    assert (found.dequantize() - values).square().sum() < values.square().sum()


def test_a_network_without_data_keeps_more_of_its_accuracy() -> None:
    images, labels = (part[:600] for part in demo.test_set())
    accuracies = []
    for unbiased_ in (False, True):
        rules = [{"layers": "all", "centroids": 4, "granularity": "channel", "unbiased": unbiased_}]
        result = lloydmax.compress(demo.network(), {"version": 1, "quantize": rules}, progress=False)
        accuracies.append(demo.accuracy(result.model, images, labels))
    assert accuracies[1] > accuracies[0] + 0.03
