"""What a run will take: seconds, and memory at most; and how it keeps within a limit of the latter."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from lloydmax.errors import DataError, RecoveryError
from lloydmax.hooks import registry
from lloydmax.network.outputs import Outputs
from lloydmax.network.parameters import weight_of
from lloydmax.plan.plan import Plan
from lloydmax.runtime.memory import in_use, there_is
from lloydmax.runtime.modes import device_of
from lloydmax.runtime.text import size
from lloydmax.teacher.cost import Cost, cost, held
from lloydmax.teacher.judge import MOST_JUDGED

if TYPE_CHECKING:
    from lloydmax.data import Source
    from lloydmax.hooks.events import Events
    from lloydmax.hooks.time_limit import TimeLimit
    from lloydmax.recovery.steps import NamedStep

_COPIES = 10
"""Of the floats of a model that a training holds: student, gradients, latent weights, moments, best states."""
_BESIDE = 1.15
"""Times what is held between forward and backward pass, with what these compute with."""
_CANDIDATES, _FISHER, _PASSES, _TRAINS = 6, 256, 5, 1.3
"""Ways to spend bits that are compared; inputs of an importance; passes of a step that does not train, for each of its
inputs; and times forward and backward pass of the teacher that a step of training takes for each input."""
_PIECE = 1 << 16
"""Weights by which the time of a fit is told."""
_STEADY = 1 << 26
"""Bytes to which memory in use is rounded up, so that the same call divides batches alike."""

_SHARE, _USUAL = 0.7, 64
"""Of the memory that there is, what a run takes where no limit is given; and inputs of a batch at most."""


@dataclass(frozen=True)
class Expected:
    """What a run will take, about.

    Attributes:
        seconds: of wall time.
        bytes: of memory, at most.
    """

    seconds: float
    bytes: int


@dataclass(frozen=True)
class Prospect:
    """What is known of a run before it begins.

    Attributes:
        teacher: the original.
        plan: of it.
        steps: of the recovery.
        samples: inputs to work with.
        judged: inputs on which agreement is measured.
        cost: of one input; ``None``: there are none.
        compares: whether codebooks and steps are compared.
    """

    teacher: nn.Module
    plan: Plan
    steps: Sequence[NamedStep]
    samples: int
    judged: int
    cost: Cost | None
    compares: bool

    def expected(self, outputs: Outputs | None) -> Expected:
        """What the run will take, with as many samples at once as ``outputs`` allow."""
        return Expected(self._seconds(), self._bytes(outputs))

    def _seconds(self) -> float:
        plan, cost, weights = self.plan, self.cost or Cost(0.0, 0.0, 0.0, 0), self.plan.total_weights
        measure = self.judged * (cost.read + cost.forward)
        settles = sum(_PASSES * 32 * cost.forward for _, step in self.steps if getattr(step, "settles", False))
        ways = 1 if plan.recipe.bits is None else _CANDIDATES if self.compares else 2
        total = ways * (self._fit() + (measure + settles) * self.compares)
        if any(p.importance is not None for p in plan.parameters.values()):
            total += min(_FISHER, self.samples) * (cost.read + cost.both)
        for _, step in self.steps:
            options: Any = getattr(step, "options", None)
            samples = min(self.samples, getattr(options, "samples", None) or self.samples)
            if hasattr(options, "epochs"):
                batch = min(options.batch_size, max(samples, 1))
                runs = options.steps or options.epochs * max(1, samples // batch)
                total += runs * batch * (cost.read + cost.forward + _TRAINS * cost.both)
            else:
                total += samples * (cost.read + _PASSES * cost.forward)
        return total + (2 + (1 + self.compares) * len(self.steps)) * measure + 3e-7 * weights

    def _fit(self) -> float:
        """Seconds to fit all codebooks once, told by a piece of the largest weight."""
        planned = max(self.plan.parameters.values(), key=lambda p: p.weights, default=None)
        if planned is None:
            return 0.0
        weight = weight_of(self.teacher, planned.name).detach().flatten()[:_PIECE]
        began = time.perf_counter()
        with suppress(Exception):
            registry.make("quantizer", planned.quantizer, planned.options).fit(weight.float())
        done = time.perf_counter() - began
        return done * sum(p.weights for p in self.plan.parameters.values()) / max(1, len(weight))

    def _bytes(self, outputs: Outputs | None) -> int:
        held = 0 if self.cost is None else self.cost.held
        at_once = max((self._at_once(step) for _, step in self.steps), default=1)
        most = at_once if outputs is None or outputs.at_most is None else min(at_once, outputs.at_most)
        return self._beside() + int(_BESIDE * held * most)

    def _at_once(self, step: Any) -> int:
        """Inputs that a step holds between forward and backward pass."""
        options: Any = getattr(step, "options", None)
        return min(options.batch_size, max(self.samples, 1)) if hasattr(options, "epochs") else 1

    def _beside(self) -> int:
        """Bytes that are needed whatever a batch is."""
        floats = sum(p.numel() for p in self.teacher.parameters())
        copies = _COPIES if any(hasattr(getattr(step, "options", None), "epochs") for _, step in self.steps) else 3
        used = -(-in_use(device_of(self.teacher)) // _STEADY) * _STEADY
        return used + 4 * copies * floats

    def bounded(self, outputs: Outputs | None, limit: int) -> Outputs | None:
        """Outputs that are read of so few samples at once that the run keeps within ``limit`` bytes.

        Raises:
            RecoveryError: even one sample at a time takes more.
        """
        beside, each = self._beside(), max(1, int(_BESIDE * (0 if self.cost is None else self.cost.held)))
        if (room := limit - beside) < each:
            raise RecoveryError(
                f"max_memory: {size(limit)} do not do: about {size(beside + each)} are needed even for one input at a "
                "time; give as much, or a smaller model"
            )
        return None if outputs is None else replace(outputs, at_most=1 << (room // each).bit_length() - 1)


def looked_ahead(
    teacher: nn.Module,
    plan: Plan,
    steps: Sequence[NamedStep],
    sources: tuple[Source | None, Source | None],
    outputs: Outputs | None,
    events: Events,
    limit: TimeLimit,
    max_memory: int | None,
) -> Outputs | None:
    """Tell what a run will take, if anybody listens, and read outputs so that it keeps within a limit of memory.

    Args:
        teacher: the original.
        plan: of it.
        steps: of the recovery.
        sources: of inputs to work with, and of those that judge.
        outputs: how they are read; ``None``: there are no inputs.
        events: where it is told.
        limit: of the time.
        max_memory: bytes; ``None``: as much as the machine has, if that is too little for a usual batch.

    Raises:
        RecoveryError: the limit of memory is too low.
    """
    source, unseen = sources
    if max_memory is None and source is not None and outputs is not None:
        outputs = _within_machine(teacher, source, outputs)
    if max_memory is None and not events.asked_for("lloydmax_expected"):
        return outputs
    each = None if source is None or outputs is None else cost(teacher, source, outputs)
    judged = min(MOST_JUDGED, 0 if unseen is None else len(unseen))
    counted = 0 if source is None else len(source)
    ahead = Prospect(teacher, plan, steps, counted, judged, each, plan.recipe.keep == "best")
    if max_memory is not None:
        outputs = ahead.bounded(outputs, max_memory)
    found = ahead.expected(outputs)
    events.expected(min(found.seconds, limit.left), found.bytes)
    return outputs


def _within_machine(teacher: nn.Module, source: Source, outputs: Outputs) -> Outputs:
    """Outputs that are read of so few samples at once that the memory that there is does, which changes nothing for
    most models. What is in use does not count: on one machine the same call divides batches alike."""
    there = there_is(device_of(teacher))
    if there is None:
        return outputs
    try:
        each = max(1, int(_BESIDE * held(teacher, source, outputs)))
    except (DataError, RecoveryError):  # a model that does not take a single sample
        return outputs
    room = int(_SHARE * there) - 4 * _COPIES * sum(p.numel() for p in teacher.parameters())
    return outputs if _USUAL * each <= room else replace(outputs, at_most=1 << max(1, room // each).bit_length() - 1)
