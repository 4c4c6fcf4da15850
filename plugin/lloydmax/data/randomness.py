"""Reproducible orders of samples, from generators of our own: the global ones are never touched."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from torch import Generator, Tensor

from lloydmax.errors import DataError
from lloydmax.runtime.arguments import whole
from lloydmax.runtime.seeding import check_seed


def check_samples(samples: Any) -> int:
    """A number of samples that count.

    Raises:
        DataError: it is not a whole number, or less than 1.
    """
    if (found := whole("samples", samples, DataError, least=None)) < 1:
        raise DataError(f"samples is {found}: at least 1 has to count")
    return found


def random_order(n: int, samples: int | None = None, seed: int = 0) -> Tensor:
    """``samples`` of the indices ``0 .. n - 1`` without repeats, in random order (all if None or >= ``n``).

    Returns an int64 tensor of shape ``(min(samples, n),)``, always the same for the same arguments.

    Raises:
        DataError: fewer than one sample is asked for.
        RecipeError: the seed is negative, or 2**63 or more.
    """
    seed = check_seed(seed)
    samples = None if samples is None else check_samples(samples)
    order = torch.randperm(n, generator=Generator().manual_seed(seed))
    return order if samples is None else order[:samples]


def split(source: Sized, held_out: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Divide the samples of a source at random: ``(train_order, held_out_order)``, int64 and disjoint.

    Raises:
        DataError: nothing would be left to train on.
    """
    samples = len(source)
    if not 0 <= held_out < samples:
        raise DataError(f"cannot hold out {held_out:,} of {samples:,} samples: hold out fewer or add data")
    order = random_order(samples, seed=seed)
    return order[held_out:], order[:held_out]
