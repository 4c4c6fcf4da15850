"""What one input costs: seconds, and memory, measured on a few before the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lloydmax.data import Batch, Source
from lloydmax.network.outputs import Outputs
from lloydmax.runtime.modes import device_of, evaluation_mode
from lloydmax.runtime.seeding import watched

_FEW, _MORE = 4, 32
"""Inputs that are measured, and where they take little time."""
_LITTLE = 0.05
"""Seconds."""


@dataclass(frozen=True)
class Cost:
    """Of one input.

    Attributes:
        read: seconds to read it.
        forward: seconds of the teacher.
        both: seconds of forward and backward pass.
        held: bytes that stay between these.
    """

    read: float
    forward: float
    both: float
    held: int


def held(teacher: nn.Module, source: Source, outputs: Outputs) -> int:
    """Bytes that stay of one input between forward and backward pass; the teacher is run forward on one input."""
    batch = source.first(1).to(device_of(teacher), channels_last=True)
    with evaluation_mode(teacher), torch.enable_grad(), _learning(teacher), kept_between(teacher) as kept:
        watched(lambda: outputs.of(batch.run(teacher), batch), 0)
    return sum(kept.values())


def cost(teacher: nn.Module, source: Source, outputs: Outputs) -> Cost:
    """Run the teacher forward and backward on a few inputs; it is left as it was, and nothing is drawn."""

    def measured(most: int) -> Cost:
        count = max(1, min(most, len(source), outputs.at_once(source.first(1))))
        began = time.perf_counter()
        batch = source.first(count).to(device_of(teacher), channels_last=True)
        read = time.perf_counter() - began
        return watched(lambda: _measured(teacher, batch, outputs, read), 0)[0]

    found = measured(_FEW)
    return measured(_MORE) if _FEW * found.both < _LITTLE else found


def _measured(teacher: nn.Module, batch: Batch, outputs: Outputs, read: float) -> Cost:
    with evaluation_mode(teacher), torch.no_grad():
        batch.run(teacher)  # the first time takes longer
        forward = _seconds(batch, lambda: batch.run(teacher))
    with evaluation_mode(teacher), torch.enable_grad(), _learning(teacher) as parameters:
        with kept_between(teacher) as kept:
            began = time.perf_counter()
            found = outputs.of(batch.run(teacher), batch)
        loss = torch.stack([one.float().square().mean() for one in found if one.requires_grad])
        torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
        _wait(batch)
        both = time.perf_counter() - began
    count = len(batch)
    return Cost(read / count, forward / count, both / count, sum(kept.values()) // count)


@contextmanager
def kept_between(teacher: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of what a pass inside keeps for the backward pass, by its place; the teacher's own tensors do not count."""
    kept: dict[int, int] = {}
    every = (*teacher.parameters(), *teacher.buffers())
    own = {tensor.untyped_storage().data_ptr() for tensor in every if tensor.layout == torch.strided}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that its own graph holds would never be let go of

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


@contextmanager
def _learning(teacher: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Its floating parameters, which require gradients inside."""
    before = {parameter: parameter.requires_grad for parameter in teacher.parameters()}
    try:
        for parameter in before:
            parameter.requires_grad_(parameter.is_floating_point())
        yield [parameter for parameter in before if parameter.requires_grad]
    finally:
        for parameter, needed in before.items():
            parameter.requires_grad_(needed)


def _seconds(batch: Batch, call: Any) -> float:
    began = time.perf_counter()
    call()
    _wait(batch)
    return time.perf_counter() - began


def _wait(batch: Batch) -> None:
    """For what a device still has to do."""
    if next(batch.tensors()).is_cuda:
        torch.cuda.synchronize()
