"""Random orders and splits: of the seed alone."""

from __future__ import annotations

import pytest
import torch
from lloydmax.data import random_order, split, unlabelled
from lloydmax.errors import DataError, RecipeError
from samples import N, X, linear


def test_random_orders_and_splits():
    order = random_order(100, 30, seed=3)
    assert order.dtype == torch.int64 and len(set(order.tolist())) == 30
    assert torch.equal(order, random_order(100, 30, seed=3))
    assert not torch.equal(order, random_order(100, 30, seed=4))
    assert sorted(random_order(5, 9).tolist()) == sorted(random_order(5).tolist()) == list(range(5))
    train, held = split(unlabelled(X, linear()), 3, seed=1)
    assert len(held) == 3
    assert sorted(train.tolist() + held.tolist()) == list(range(N))
    assert len(split(X, 0)[1]) == 0
    for held_out in (N, -1):
        with pytest.raises(DataError, match="hold out"):
            split(X, held_out)


def test_numbers_of_samples_and_seeds_that_make_no_sense():
    for samples in (0, -3):
        with pytest.raises(DataError, match=f"samples is {samples}: at least 1"):
            random_order(10, samples)
    for seed in (-1, 2**63, 2**70, 1.5, "a"):
        for refused in (lambda seed: random_order(10, 3, seed), lambda seed: unlabelled(X, linear(), seed=seed)):
            with pytest.raises(RecipeError, match="seed is .*whole number from 0"):
                refused(seed)
    assert len(random_order(10, 3, 2**63 - 1)) == 3
