"""Modes of a thread: the caller's are left outside, and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from lloydmax.runtime import modes
from lloydmax.runtime.modes import at_home, evaluation_mode, own_modes
from torch import nn


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


AROUND: list[Callable[[], AbstractContextManager[Any]]] = [
    torch.no_grad,
    torch.inference_mode,
    lambda: torch.autocast("cpu", torch.bfloat16),
    lambda: torch.device("meta"),
    lambda: default_device("meta"),
    lambda: default_dtype(torch.float64),
    lambda: default_dtype(torch.bfloat16),
]


def _present() -> tuple[object, ...]:
    levels = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), levels,
        torch.get_default_device(), torch.get_default_dtype(),
    )  # fmt: skip


@pytest.mark.parametrize("around", AROUND)
def test_inside_all_is_as_in_a_fresh_thread(around: Callable[[], AbstractContextManager[Any]]) -> None:
    weight = nn.Parameter(torch.ones(3, 3))

    def computed() -> Any:
        made = torch.tensor([0.1, 2]) * torch.ones(2) + torch.full((2,), 0.3) / torch.arange(1, 3)
        third = torch.arange(3) / 3 + torch.arange(3) * 0.7
        product = weight @ weight
        return made, third, torch.tensor([1, 2]), torch.where(torch.tensor([True]), 1.0, 2.0), product

    expected = computed()
    with around():
        before = _present()
        with own_modes():
            found = computed()
            inside = _present()
        assert _present() == before
    assert inside[:5] == (True, False, False, 1, torch.device("cpu"))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
        assert one.requires_grad == other.requires_grad and not one.is_inference()


def test_casts_that_autocast_keeps_do_not_grow_stale() -> None:
    weight = nn.Parameter(torch.ones(8, 8))
    with torch.autocast("cpu", torch.bfloat16), own_modes():
        for value in (1.0, 2.0):
            with torch.no_grad():
                weight.fill_(value)
            with torch.autocast("cpu", torch.bfloat16):
                assert float((torch.ones(8, 8) @ weight)[0, 0]) == 8 * value


def test_a_model_makes_tensors_on_its_own_device_where_the_callers_default_is_another() -> None:
    model = nn.Linear(2, 2)
    with default_device("meta"), own_modes(), at_home(model):
        assert torch.zeros(1).device.type == "cpu"
    with own_modes():
        assert type(at_home(model)).__name__ == "nullcontext"


def test_modes_come_back_after_an_error() -> None:
    with torch.no_grad():
        before = _present()
        with pytest.raises(KeyboardInterrupt), own_modes():
            raise KeyboardInterrupt
        assert _present() == before


def test_recurrent_layers_on_cuda_train_without_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "_on_cuda", lambda module: True)
    model = nn.Sequential(nn.LSTM(4, 4, num_layers=2, dropout=0.5), nn.Identity()).train()
    model[1].eval()
    x = torch.randn(5, 2, 4)
    with evaluation_mode(model):
        assert model[0].training and model[0].dropout == 0 and not model.training
        assert torch.equal(model[0](x)[0], model[0](x)[0])
    assert model[0].training and model[0].dropout == 0.5 and model.training and not model[1].training
