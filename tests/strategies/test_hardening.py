"""What decides how codes learn: how fast mixtures harden, how hard the price pulls, in which units channels count."""

from __future__ import annotations

import lloydmax
import pytest
import torch
from lloydmax.student.attachment import CodebookWeight, attach
from lloydmax_strategies.training.latent import Latents, StraightThrough
from lloydmax_strategies.training.soft import Annealed
from torch import Tensor, nn


@pytest.mark.parametrize(
    ("progress", "temperature"),
    [(0.0, 0.5), (0.2125, 0.1880), (0.425, 0.0707), (0.6375, 0.0266), (0.845, 0.010233)],
)
def test_the_temperature_falls_from_a_half_to_a_hundredth_of_the_squared_gap(
    progress: float, temperature: float
) -> None:
    low, high = -1.0, 3.0
    weight = torch.linspace(0.9, 1.1, 21)
    codebook = lloydmax.Codebook(torch.tensor([low, high]), torch.zeros(21, dtype=torch.uint8))
    holder, centroids = CodebookWeight(codebook), nn.Parameter(codebook.centroids.clone())
    through = Annealed(weight, holder, centroids)
    through.begin_step(progress)
    pair = torch.tensor([low, high])
    distances = (weight[:, None] - pair).square() / (temperature * (high - low) ** 2)
    wanted = (torch.softmax(-distances, -1) * pair).sum(-1)
    torch.testing.assert_close(through(holder(centroids)).detach(), wanted, atol=2e-3, rtol=0)


def test_weights_are_hard_in_the_last_seventh_of_the_steps() -> None:
    codebook = lloydmax.Codebook(torch.tensor([0.0, 1.0]), torch.tensor([0, 1], dtype=torch.uint8))
    holder, centroids = CodebookWeight(codebook), nn.Parameter(codebook.centroids.clone())
    through = Annealed(torch.tensor([0.49, 0.51]), holder, centroids)
    apart = {}
    for progress in (0.8, 0.84, 0.86, 1.0):
        through.begin_step(progress)
        apart[progress] = float((through(holder(centroids)) - holder(centroids)).detach().abs().max())
    assert apart[0.8] > 0.1 and apart[0.84] > 0.1 and apart[0.86] == apart[1.0] == 0


def priced(weight: Tensor) -> tuple[nn.Module, Latents]:
    """A layer whose codes learn and whose bits have a price."""
    model = nn.Sequential(nn.Linear(weight.shape[1], len(weight), bias=False))
    with torch.no_grad():
        model[0].weight.copy_(weight)
    student = nn.Sequential(nn.Linear(weight.shape[1], len(weight), bias=False))
    attach(student, "0.weight", lloydmax.fit_codebook(weight, 16, price=0.05))
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    return student, Latents(student, model)


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_a_bit_too_many_makes_bits_four_times_as_dear(spread: float) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    _, latents = priced(weight)
    wanted = latents.bits()
    assert latents.multiplier == 1
    with torch.no_grad():
        latents.parameters[0].mul_(spread)
    latents.choose()
    excess = latents.bits() - wanted
    assert abs(excess) > 0.05 and (excess > 0) == (spread > 1)
    assert latents.multiplier == pytest.approx(4**excess)
    first = latents.multiplier
    latents.choose()
    assert latents.multiplier == pytest.approx(first * 4 ** (latents.bits() - wanted))


def test_a_price_that_rises_takes_the_bits_that_were_too_many() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    _, latents = priced(weight)
    wanted, excess = latents.bits(), []
    with torch.no_grad():
        latents.parameters[0].mul_(1.3)
    for _ in range(8):
        latents.choose()
        excess.append(latents.bits() - wanted)
    assert excess[0] > 0.2 and min(excess) < 0


def test_every_channel_counts_in_units_of_its_own_rms_and_a_dead_one_in_a_hundredth_of_the_whole() -> None:
    weight = (
        torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 1e-6, 0.0])[:, None]
    )
    codebook = lloydmax.fit_codebook(weight, 8)
    through = StraightThrough(weight, CodebookWeight(codebook), codebook.centroids)
    whole = float(weight.square().mean().sqrt())
    rms = weight.square().mean(1).sqrt()
    torch.testing.assert_close(through.scale.flatten()[:2], rms[:2])
    torch.testing.assert_close(through.scale.flatten()[2:], torch.full((2,), 0.01 * whole))
    torch.testing.assert_close(through.weight, weight)
