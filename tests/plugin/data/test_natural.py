"""Noise that is like pictures, sounds and texts."""

from __future__ import annotations

import pytest
import torch
from lloydmax.data.natural import Form, coloured, values_of
from torch import Generator, Tensor

FORMS = [Form((3, 24, 20)), Form((24, 20), None), Form((20,)), Form((400,), None), Form((2, 3, 4, 5)), Form((), None)]


def made(form: Form, structured: bool, samples: int = 32, seed: int = 0) -> Tensor:
    return values_of(form, samples, Generator().manual_seed(seed), structured=structured)


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form.shape))
def test_values_have_their_shape_and_are_standard_and_repeatable(form: Form, structured: bool) -> None:
    before = torch.get_rng_state()
    found = made(form, structured)
    assert torch.equal(before, torch.get_rng_state())
    assert found.shape == (32, *form.shape) and found.dtype == torch.float32
    assert torch.equal(found, made(form, structured)) and not torch.equal(found, made(form, structured, seed=1))
    channels = form.split(found).movedim(1, 0).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(len(channels)), atol=1e-4, rtol=0)
    torch.testing.assert_close(channels.std(1, correction=0), torch.ones(len(channels)), atol=1e-3, rtol=0)


def test_neighbours_are_alike_and_things_have_flat_parts_and_edges() -> None:
    white = torch.randn(8, 3, 32, 32, generator=Generator().manual_seed(0))
    things, regions = (made(Form((3, 32, 32)), structured, 8) for structured in (True, False))
    pink = coloured((8, 3, 32, 32), Generator().manual_seed(0))

    def steps(x: Tensor) -> Tensor:
        return x.diff(dim=-1).flatten()

    def peaked(x: Tensor) -> float:
        return float(steps(x).pow(4).mean() / steps(x).square().mean() ** 2)

    for found in (things, regions, pink):
        assert steps(found).std() < 0.8 * steps(white).std()
    assert min(peaked(things), peaked(regions)) > 1.5 * peaked(pink)


def test_channels_of_sounds_and_pictures_lie_where_the_form_says() -> None:
    frames = made(Form((30, 16), 1), True)
    assert frames.shape == (32, 30, 16)
    assert frames.diff(dim=1).std() < frames.diff(dim=2).std()  # along time they change little


@pytest.mark.parametrize("structured", [True, False])
def test_whole_numbers_stay_below_the_limit_of_their_column(structured: bool) -> None:
    below = torch.tensor([3, 50, 1, 1000])
    found = made(Form((4,), None, below, torch.int64), structured, 500)
    assert found.dtype == torch.int64 and bool((found >= 0).all()) and bool((found < below).all())
    assert all(len(column.unique()) > min(20, limit - 1) for column, limit in zip(found.T, below.tolist(), strict=True))


def test_some_words_are_frequent_and_come_again() -> None:
    form = Form((16,), None, torch.tensor(1000), torch.int64)
    texts, uniform = (made(form, structured, 500) for structured in (True, False))
    assert texts.flatten().bincount().max() > 5 * uniform.flatten().bincount().max()
    again = [sum(len(row.unique()) for row in found) for found in (texts, uniform)]
    assert again[0] < 0.95 * again[1]
