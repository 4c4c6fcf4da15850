"""What other people's code draws from the global random generators: random transforms, models that sample.

There is one global state for all threads of a process. Code that draws from it runs on states that belong to the run,
which stand in its place for the time of one call, one thread at a time; where nothing is drawn, nothing is touched.
"""

from __future__ import annotations

import inspect
import operator
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lloydmax.errors import RecipeError
from lloydmax.runtime.dispatch import seen_by

T = TypeVar("T")
_turn = threading.RLock()
_SEEDS = 2**63
_TRIES = 3
"""Calls in which numpy's or Python's generators have moved, until it is the call and not another thread that draws."""


def check_seed(seed: Any) -> int:
    """A seed, if it can seed all generators.

    Raises:
        RecipeError: it is not a whole number from 0 to 2**63 - 1.
    """
    try:
        found = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        found = -1
    if not 0 <= found < _SEEDS:
        raise RecipeError(f"seed is {seed!r}: give a whole number from 0 to 2**63 - 1, as in seed=0")
    return found


@dataclass
class States:
    """The states of the global generators of torch (by CUDA device; ``None``: the CPU), numpy and Python."""

    torch: dict[int | None, Tensor]
    numpy: Any
    python: Any

    @classmethod
    def now(cls, devices: Iterable[int | None] = (None,)) -> States:
        """As they are."""
        states = {d: torch.get_rng_state() if d is None else torch.cuda.get_rng_state(d) for d in devices}
        return cls(states, np.random.get_state(), random.getstate())

    @classmethod
    def seeded(cls, seed: int, devices: Iterable[int | None] = (None,)) -> States:
        """As a seed makes them; see :func:`check_seed`."""
        seed = check_seed(seed)
        places = {d: "cpu" if d is None else f"cuda:{d}" for d in devices}
        states = {d: Generator(place).manual_seed(seed).get_state() for d, place in places.items()}
        return cls(states, np.random.RandomState(seed % 2**32).get_state(), random.Random(seed).getstate())

    def put_torch(self) -> None:
        """Make torch's global generators go on from here."""
        for device, state in self.torch.items():
            torch.set_rng_state(state) if device is None else torch.cuda.set_rng_state(state, device)

    def put(self) -> None:
        """Make all of them go on from here."""
        self.put_torch()
        np.random.set_state(self.numpy)
        random.setstate(self.python)

    def same_outside_of_torch(self) -> bool:
        """Whether the generators of numpy and Python have not moved since."""
        kind, words, *rest = np.random.get_state()
        same = self.python == random.getstate() and (self.numpy[0], *self.numpy[2:]) == (kind, *rest)
        return same and bool(np.array_equal(self.numpy[1], words))


class _Stream:
    """The random states of a run, and whether its model draws from them (``None``: not known yet)."""

    def __init__(self, states: States) -> None:
        self.states = states
        self.draws: bool | None = None


_stream: ContextVar[_Stream | None] = ContextVar("the random states of the run in this thread", default=None)


@contextmanager
def seeded(seed: int, model: nn.Module) -> Iterator[None]:
    """Inside, code that draws from the global generators draws from states that ``seed`` makes, see :func:`drawn`."""
    devices = {None, *(p.device.index or 0 for p in model.parameters() if p.device.type == "cuda")}
    token = _stream.set(_Stream(States.seeded(seed, devices)))
    try:
        yield
    finally:
        _stream.reset(token)


def states_of_run() -> dict[str, Any] | None:
    """The random states of the run in this thread as plain data; ``None``: there is no run."""
    stream = _stream.get()
    return None if stream is None else vars(stream.states)


def restore_states_of_run(kept: dict[str, Any]) -> None:
    """Make the run in this thread draw as one did whose :func:`states_of_run` these are.

    Raises:
        ValueError, TypeError, RuntimeError, ...: no generator takes them.
    """
    stream = _stream.get()
    if stream is not None:
        states = States(**kept)
        with untouched(states.torch):
            states.put()
        stream.states = states


def drawn(call: Callable[[], T]) -> T:
    """What a call of a run's model or student gives; one that draws random numbers draws those of the run.

    The first call tells whether it does.
    """
    stream = _stream.get()
    if stream is None or stream.draws is False:
        return call()
    if stream.draws is None:
        with _turn:
            made, stream.draws = _told(call, stream.states.torch)
        if not stream.draws:
            return made
    return on_own_states(call)


def on_own_states(call: Callable[[], T]) -> T:
    """What a call gives that draws, from the states of the run, which go on where the last one left them."""
    stream = _stream.get()
    if stream is None:
        return call()
    with untouched(stream.states.torch):
        stream.states.put()
        made = call()
        stream.states = States.now(stream.states.torch)
        return made


@contextmanager
def undisturbed(seed: int, *generators: Generator | None) -> Iterator[None]:
    """Run code that may draw from global generators, seeded, and put them back afterwards; ``generators`` too."""
    states = [(generator, generator.get_state()) for generator in generators if generator is not None]
    with untouched():
        States.seeded(seed).put()
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)


@contextmanager
def untouched(devices: Iterable[int | None] = (None,)) -> Iterator[None]:
    """The global generators as they were, whatever the block draws; no other thread is in such a block meanwhile."""
    with _turn:
        before = States.now(devices)
        try:
            yield
        finally:
            try:
                before.put()
            except KeyboardInterrupt:
                before.put()
                raise


def watched(call: Callable[[], T], seed: int) -> tuple[T, bool]:
    """What a call gives that can be repeated, and whether it draws from the global generators; then it is repeated on
    seeded ones. They are as before afterwards."""
    with _turn:
        made, draws = _told(call)
    if not draws:
        return made, False
    with undisturbed(seed):
        return call(), True


def undrawn(call: Callable[[], T]) -> T:
    """What a call gives; if it draws from torch's global generators, they are put back."""
    with _turn:
        return _heard(call)[0]


def _told(call: Callable[[], T], devices: Iterable[int | None] = (None,)) -> tuple[T, bool]:
    """What a call gives that can be repeated, and whether it draws from the global generators, which are put back."""
    first = States.now(devices)
    try:
        for _ in range(_TRIES):
            before = States.now(devices)
            made, draws = _heard(call, devices)
            if before.same_outside_of_torch():
                return made, draws
            if draws:
                break
    except BaseException:
        if not first.same_outside_of_torch():
            first.put()
        raise
    first.put()
    return made, True


def _heard(call: Callable[[], T], devices: Iterable[int | None] = (None,)) -> tuple[T, bool]:
    """What a call gives, and whether torch draws random numbers for it; its global generators are put back then."""
    before = States.now(devices)
    hearing = _Hearing()
    try:
        with seen_by(hearing):
            made = call()
        return made, hearing.drew
    finally:
        if hearing.drew:
            before.put_torch()


class _Hearing(TorchDispatchMode):
    """Hears whether an operation of this thread draws from a global generator of torch."""

    drew = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and not any(
            isinstance(a, Generator) for a in (*args, *kwargs.values())
        ):
            self.drew = True
        return func(*args, **kwargs)


class OwnGenerator(TorchFunctionMode):
    """While it is active in a thread, what fills tensors with random numbers draws from a generator of its own: the
    modules that a host makes, for example.

    Args:
        seed: of the generator.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._generator = Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``, with the generator where it would take the global one."""
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        on_cpu = isinstance(tensor, Tensor) and tensor.device.type == "cpu"
        if func in _FILLING and on_cpu and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self._generator}
        return func(*args, **kwargs)


def _initializers() -> Iterator[Any]:
    for name, function in vars(nn.init).items():
        if (
            name.endswith("_")
            and inspect.isfunction(function)
            and "generator" in inspect.signature(function).parameters
        ):
            yield function


_IN_PLACE = ("uniform_", "normal_", "random_", "bernoulli_", "exponential_", "log_normal_", "cauchy_", "geometric_")
_FILLING = frozenset([*(getattr(Tensor, name) for name in _IN_PLACE), *_initializers()])
