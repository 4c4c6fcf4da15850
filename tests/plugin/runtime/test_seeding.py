"""Random numbers: those of a run are its own, those of the caller stay as they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lloydmax.runtime.seeding import OwnGenerator, States, drawn, on_own_states, seeded, untouched, watched
from torch import nn

MODEL = nn.Linear(2, 2)


def _numbers() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def _states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


@pytest.fixture(autouse=True)
def _unchanged() -> Any:
    before = _states()
    yield
    assert _states() == before


def test_a_run_goes_on_from_call_to_call_and_is_repeatable() -> None:
    found = []
    for _ in range(2):
        with seeded(3, MODEL):
            found.append([on_own_states(_numbers) for _ in range(2)])
    assert found[0] == found[1] and found[0][0] != found[0][1]
    torch_first = float(torch.rand((), generator=torch.Generator().manual_seed(3)))
    assert found[0][0][0] == torch_first, "as torch.manual_seed(3) would make it go"


def test_only_models_that_draw_run_on_the_states_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    put = []
    monkeypatch.setattr(States, "put", lambda self: put.append(self))
    with seeded(0, MODEL):
        assert drawn(lambda: 1) == drawn(lambda: 1) == 1
    assert not put


def test_a_model_that_draws_is_repeatable() -> None:
    found = []
    for _ in range(2):
        with seeded(5, MODEL):
            found.append([drawn(lambda: nn.functional.dropout(torch.ones(64))) for _ in range(2)])
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[0][1])


@pytest.mark.parametrize(
    "draw", [lambda: float(torch.rand(())), lambda: float(np.random.rand()), random.random, lambda: _numbers()[0]]
)
def test_code_that_draws_is_told_from_code_that_does_not(draw: Callable[[], float]) -> None:
    assert watched(draw, 1) == (watched(draw, 1)[0], True)
    assert watched(lambda: 4.0, 1) == (4.0, False)
    own = torch.Generator().manual_seed(0)
    assert watched(lambda: torch.rand(1, generator=own) < 2, 1)[1] is False


def test_an_interruption_puts_the_states_back() -> None:
    def interrupted() -> None:
        _numbers()
        raise KeyboardInterrupt

    for call in (lambda: watched(interrupted, 0), lambda: drawn(interrupted), lambda: on_own_states(interrupted)):
        with seeded(0, MODEL), pytest.raises(KeyboardInterrupt), untouched():
            call()


def test_modules_that_others_make_draw_from_a_generator_of_their_own() -> None:
    with OwnGenerator():
        first = nn.LSTM(4, 4), nn.Conv2d(2, 2, 3), nn.Embedding(3, 2)
    with OwnGenerator():
        second = nn.LSTM(4, 4), nn.Conv2d(2, 2, 3), nn.Embedding(3, 2)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_a_model_that_draws_from_numpy_or_python_is_repeatable_too() -> None:
    found = []
    for _ in range(2):
        with seeded(5, MODEL):
            found.append([drawn(lambda: _numbers()[1:]) for _ in range(2)])
    assert found[0] == found[1] and found[0][0] != found[0][1]
