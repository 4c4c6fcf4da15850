"""What a few examples tell of the places along an axis."""

from __future__ import annotations

import pytest
import torch
from lloydmax.data.profile import Profile, only_shapes, profile_of
from torch import Tensor

COEFFICIENTS = torch.tensor([20.0, 4.0, 2.0, 1.0])


def sounds(samples: int, seed: int = 0) -> Tensor:
    """Coefficients of speech ``(samples, 1, 30, 4)``: the first one is large, and far from 0."""
    noise = torch.randn(samples, 1, 30, 4, generator=torch.Generator().manual_seed(seed))
    return noise * COEFFICIENTS - torch.tensor([40.0, 0.0, 1.0, 0.0])


def test_one_example_tells_means_and_deviations_along_the_shortest_axis_that_tells() -> None:
    found = profile_of(sounds(1), 100)
    assert found is not None
    means, deviations = found.along((1, 30, 4))
    assert means.shape == deviations.shape == (4,) and abs(float(means[0]) + 40) < 10
    assert bool(((deviations / COEFFICIENTS).log().abs() < 0.5).all())
    across = profile_of(sounds(1).transpose(2, 3), 100)
    assert across is not None and across.along((1, 4, 30))[0].shape == (4, 1) and across.means == found.means
    assert all(len(f"{abs(number):g}") <= 5 for number in found.means + found.deviations)  # files hold them


def test_few_vectors_have_one_deviation_and_means() -> None:
    spectrum = 10 * torch.linspace(0, 3, 64).sin()
    found = profile_of(spectrum + torch.randn(2, 64, generator=torch.Generator().manual_seed(0)), 64)
    assert found is not None and len(found.means) == 64 and len(found.deviations) == 1
    assert 0.8 < found.deviations[0] < 1.8  # two samples tell their mean roughly: this is how far a third may be


@pytest.mark.parametrize(
    "values",
    [torch.randn(2, 64, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 8), sounds(1)[:, 0, :1]],
    ids=["alike at all places", "constant", "a single value at each place"],
)
def test_what_examples_do_not_tell_is_left_open(values: Tensor) -> None:
    assert profile_of(values, 100) is None


def test_a_profile_is_small_beside_the_weights() -> None:
    assert profile_of(sounds(1), 3) is None
    assert Profile((1.0, 2.0), (1.0,)).along((2, 5, 2))[0].shape == (2,)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 64), (1, 16000)])
def test_examples_that_only_show_a_shape_are_known(shape: tuple[int, ...]) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        normal, even = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
        assert only_shapes(normal) and only_shapes(even)
        assert not only_shapes(3 + 2 * normal) and not only_shapes(255 * even)
        wave = normal.cumsum(-1)  # real inputs are often normalized, but neighbours go together
        assert not only_shapes((wave - wave.mean()) / wave.std())
    assert only_shapes(torch.zeros(shape)) and only_shapes(torch.ones(shape))
