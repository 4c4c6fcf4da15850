"""What is given as a network is looked at before anything else is done with it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest
import torch
from lloydmax.errors import ModelError
from lloydmax.network.given import network
from lloydmax.network.private import private
from torch import nn


def test_a_network_is_given_back() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Sequential(shared, nn.ModuleList()), nn.ModuleDict({"a b": shared}))
    assert network(model) is model


def test_shared_modules_are_looked_at_once() -> None:
    model: nn.Module = nn.Linear(4, 4)
    for _ in range(60):  # 2**60 ways from the top to the bottom
        model = nn.Sequential(model, model)
    assert network(model) is model


def test_the_place_is_named() -> None:
    inner = nn.Sequential(nn.Linear(4, 4))
    inner.add_module("back", inner)
    with pytest.raises(ModelError, match="the teacher: head.back is head itself, which lies in itself"):
        network(nn.ModuleDict({"head": inner}), "the teacher")

    @dataclass
    class Unhashable(nn.Module):
        def __init__(self) -> None:
            super().__init__()

    with pytest.raises(ModelError, match="1: Unhashable cannot be hashed, .* dataclass\\(eq=False\\)"):
        network(nn.Sequential(nn.Linear(4, 4), Unhashable()))


def test_depth_is_that_of_pythons_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    model: nn.Module = nn.Linear(4, 4)
    for _ in range(60):
        model = nn.Sequential(model)
    private(model)
    for _ in range(300):
        model = nn.Sequential(model)
    with pytest.raises(ModelError, match="so deep in itself that Python cannot copy it|too deep for Python"):
        private(model)
    monkeypatch.setattr(sys, "getrecursionlimit", lambda: 100)
    with pytest.raises(ModelError, match="lie 26 deep in each other"):
        network(model)


def test_what_cannot_be_copied_and_says_nothing() -> None:
    class Silent:
        def __deepcopy__(self, memo: object) -> object:
            raise RuntimeError

    model = nn.Sequential(nn.Linear(4, 4))
    model.silent = Silent()  # type: ignore[assignment]
    with pytest.raises(ModelError, match="silent \\(Silent\\) cannot be copied \\(RuntimeError: \\)"):
        private(model)


def test_a_sparse_buffer_that_no_file_keeps_is_allowed() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_buffer("adjacency", torch.eye(4).to_sparse(), persistent=False)
    assert private(model).adjacency.is_sparse  # type: ignore[union-attr]
