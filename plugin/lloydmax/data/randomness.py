"""Reproducible orders of samples, from generators of our own: the global ones are never touched."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sized
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator, Tensor

from lloydmax.errors import DataError

_turn = threading.RLock()


def random_order(n: int, samples: int | None = None, seed: int = 0) -> Tensor:
    """``samples`` of the indices ``0 .. n - 1`` without repeats, in random order (all if None or >= ``n``).

    Returns an int64 tensor of shape ``(min(samples, n),)``, always the same for the same arguments.
    """
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


@contextmanager
def undisturbed(seed: int | None = None, *generators: Generator | None) -> Iterator[None]:
    """Run other people's code on global generators (seeded, if asked) that are put back afterwards.

    ``generators`` are put back too. Threads take turns: there is one global state for all of them.
    """
    with _turn:
        yield from _undisturbed(seed, generators)


def _undisturbed(seed: int | None, generators: tuple[Generator | None, ...]) -> Iterator[None]:
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    states = [(generator, generator.get_state()) for generator in generators if generator is not None]
    try:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for generator, state in states:
            generator.set_state(state)
