"""Facts about batch norms."""

from __future__ import annotations

import torch
from lloydmax.network.batch_norm import bhattacharyya


def test_the_distance_is_that_of_the_densities() -> None:
    mean, variance = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1.0, 0.1, 4.0])
    other_mean, other_variance = torch.tensor([0.5, 1.0, 3.0]), torch.tensor([2.0, 0.3, 0.5])
    x = torch.linspace(-30, 30, 600_001, dtype=torch.float64)[:, None]
    densities = [torch.distributions.Normal(m, v.sqrt()) for m, v in ((mean, variance), (other_mean, other_variance))]
    overlap = torch.trapezoid((densities[0].log_prob(x) / 2 + densities[1].log_prob(x) / 2).exp(), x, dim=0)
    found = bhattacharyya(mean, variance, other_mean, other_variance)
    assert torch.allclose(found.double(), -overlap.log(), atol=1e-5)
    assert torch.allclose(found, bhattacharyya(other_mean, other_variance, mean, variance))
    assert torch.allclose(found, bhattacharyya(7 * mean, 49 * variance, 7 * other_mean, 49 * other_variance))
    assert bhattacharyya(mean, variance, mean, variance).abs().max() < 1e-6
