"""Batches in parts whose gradients add up: because their outputs are too large to be there at once, or because several
processes work on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from lloydmax.data import Batch, Source
from lloydmax.errors import RecoveryError
from lloydmax.runtime import processes
from lloydmax.runtime.digest import fingerprint

Losses = Callable[[Tensor, Batch], dict[str, Tensor]]
Part = tuple[int, Tensor, Batch]
"""Number of the part, indices of its samples, inputs."""
SMALL = 1 << 16
"""Values of a buffer that a forward pass may change: statistics, ranges, counters."""
_BUCKET = 1 << 24
"""Values that processes send at once."""
_MOST_LOSSES = 8


def added_up(losses: Losses, parts: Sequence[tuple[Tensor, Batch]], parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """The losses of a batch, each the mean over its samples, as if it had come at once.

    Args:
        losses: of some samples, 0-dim, the means over them.
        parts: of the batch: indices and inputs.
        parameters: that learn.

    Returns:
        The losses; the gradients of all of them together are those of their sum.
    """
    if len(parts) == 1:
        return losses(*parts[0])
    samples = sum(len(indices) for indices, _ in parts)
    found: dict[str, Tensor] = {}
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    for indices, batch in parts:
        share = len(indices) / samples
        now = {name: share * loss for name, loss in losses(indices, batch).items()}
        total = torch.stack([*now.values()]).sum()
        for kept, gradient in zip(gradients, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
            if gradient is not None:
                kept += gradient
        for name, loss in now.items():
            found[name] = found[name] + loss.detach() if name in found else loss.detach()
    first = next(iter(found))
    return found | {first: found[first] + carried(parameters, gradients)}


def carried(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """A zero with these gradients."""
    pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    carrier = torch.stack([(p * g).sum().float().to(parameters[0].device) for p, g in pairs]).sum()
    return carrier - carrier.detach()


class Division:
    """How the batches of a run are divided into parts of the same size, and which are this process's: each has every
    ``processes``-th one.

    Args:
        name: of the step, for messages.
        batch_size: of a step, all processes together.
        samples: that there are.
        parts: of each batch; ``None``: one for each process.
        among: how many processes share them.

    Raises:
        RecoveryError: the parts would not be of the same size, or there are too few.
    """

    def __init__(self, name: str, batch_size: int, samples: int, parts: int | None, among: int) -> None:
        self.count, self.among = parts or among, among
        whole = min(batch_size, samples)
        if self.count < among:
            raise RecoveryError(
                f"{name}: 'parts: {parts}' leave nothing to do for some of {among} processes; write {among} or more"
            )
        if batch_size % self.count or whole < self.count:
            who = f"{among} processes" if parts is None else f"'parts: {parts}'"
            raise RecoveryError(
                f"{name}: a batch_size of {batch_size} ({samples} samples) cannot be shared equally "
                f"by {who}; write a multiple of {self.count}"
            )
        self.size = whole // self.count

    def batches(self, source: Source, order: Tensor, batch_size: int) -> Iterator[list[Part]]:
        """This process's parts of one batch after the other; a part of which no sample can be used is left out.

        Args:
            source: of the inputs.
            order: int64 indices of the samples.
            batch_size: where nothing is divided, the last batch may be smaller than this, if it is the only one.
        """
        if self.count == 1:
            for indices, batch in source.batches(self.size, order, drop_last=len(order) > batch_size):
                yield [(0, indices, batch)]
            return
        whole = self.count * self.size
        numbers = [number for number in range(self.count) if number % self.among == processes.rank() % self.among]
        mine = order[: len(order) // whole * whole].view(-1, self.count, self.size)[:, numbers]
        read = source.batches(self.size, mine.reshape(-1))
        following = next(read, None)
        for step in mine:
            parts: list[Part] = []
            for number, wanted in zip(numbers, step, strict=True):
                if following is not None and bool(torch.isin(following[0], wanted).all()):
                    parts.append((number, *following))
                    following = next(read, None)
            yield parts


class InTurn:
    """Adds up what the parts of a batch give, in the order of the parts, whichever process has which: losses and
    gradients are the same, bit for bit, for any number of processes.

    Buffers that a forward pass changes are the same before each part, and become what the first part makes of them.

    Args:
        student: whose buffers these are.
        division: of the batches.
        generator: draws the batches.
        reseed: makes it, and what else draws at random, go on from a seed.
    """

    def __init__(
        self, student: nn.Module, division: Division, generator: torch.Generator, reseed: Callable[[int], None]
    ) -> None:
        self._student, self._division = student, division
        self._generator, self._reseed = generator, reseed
        self._names = ["loss"]

    def __call__(
        self, losses: Losses, parts: Sequence[Part], parameters: Sequence[Tensor], seeds: Sequence[int]
    ) -> dict[str, Tensor]:
        """The losses of a batch, the means over its samples; empty where none of them can be used.

        Args:
            losses: of some samples, 0-dim, the means over them.
            parts: of this process.
            parameters: that learn.
            seeds: with the number of a part, of what it draws.

        Returns:
            The losses, on the device of the parameters; the gradients of all of them together are those of their sum.
        """
        if self._division.count == 1:
            return losses(*parts[0][1:])
        device, among = parameters[0].device, self._division.among
        going_on = self._generator.get_state()
        wide = torch.float64 if any(p.dtype == torch.float64 for p in parameters) else torch.float32
        total = torch.zeros(sum(p.numel() for p in parameters), dtype=wide, device=device)
        figures = torch.zeros(1 + _MOST_LOSSES + len(parameters), dtype=torch.float64, device=device)
        moved = _Moved(self._student)
        own = {number: (indices, batch) for number, indices, batch in parts}
        for turn in range(0, self._division.count, among):
            number = turn + processes.rank() % among
            row, flat = torch.zeros_like(figures), None
            if number in own:
                self._reseed(int.from_bytes(fingerprint([torch.tensor([*seeds, number])])[:7]))
                moved.before()
                row, flat = self._of_a_part(losses, own[number], parameters, wide)
                moved.after(number)
            rows = processes.every(row) if among > 1 else [row]
            for each in rows:
                figures += each
            self._add(total, flat, [float(each[0]) for each in rows])
        moved.settle(among)
        self._generator.set_state(going_on)
        samples = float(figures[0])
        if not samples:
            return {}
        used = (figures[1 + _MOST_LOSSES :] > 0).tolist()
        parts_of = (total / samples).split([p.numel() for p in parameters])
        gradients = [g.view_as(p).to(p) if has else None for p, g, has in zip(parameters, parts_of, used, strict=True)]
        found = {name: (value / samples).float() for name, value in zip(self._names, figures[1:], strict=False)}
        return found | {self._names[0]: found[self._names[0]] + carried(parameters, gradients)}

    def _of_a_part(
        self, losses: Losses, part: tuple[Tensor, Batch], parameters: Sequence[Tensor], wide: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Samples, sums of losses, and which parameters have gradients; and the sum of these, times the samples."""
        indices, batch = part
        found, count = losses(indices, batch), len(indices)
        self._names = list(found)
        if len(found) > _MOST_LOSSES:
            raise RecoveryError(f"a batch in parts has at most {_MOST_LOSSES} losses, not {len(found)}")
        gradients = torch.autograd.grad(reduce(add, found.values()), list(parameters), allow_unused=True)
        empty = [0.0] * (_MOST_LOSSES - len(found))
        sums = [count * value for value in torch.stack([one.detach() for one in found.values()]).double().tolist()]
        row = [count, *sums, *empty, *(float(g is not None) for g in gradients)]
        flat = torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).reshape(-1).to(parameters[0].device, wide)
                for p, g in zip(parameters, gradients, strict=True)
            ]
        )
        return torch.tensor(row, dtype=torch.float64, device=flat.device), flat.mul_(count)

    def _add(self, total: Tensor, flat: Tensor | None, counts: Sequence[float]) -> None:
        """Add the gradients of one part of each process, in their order."""
        for start in range(0, len(total), _BUCKET):
            here = total[start : start + _BUCKET]
            ours = torch.zeros_like(here) if flat is None else flat[start : start + _BUCKET]
            for count, theirs in zip(counts, processes.every(ours) if len(counts) > 1 else [ours], strict=True):
                if count:
                    here += theirs


class _Moved:
    """Small buffers of a student in a step: what they were before each part, and what the first part makes of them."""

    def __init__(self, student: nn.Module) -> None:
        found = {
            id(buffer): (buffer, module.training)
            for module in student.modules()
            for buffer in module._buffers.values()
            if buffer is not None and buffer.numel() <= SMALL
        }
        self._buffers = [buffer for buffer, _ in found.values()]
        self._training = [training for _, training in found.values()]  # batch norms move theirs unseen
        self._before = [buffer.clone() for buffer in self._buffers]
        self._versions = [buffer._version for buffer in self._buffers]
        self._first: dict[int, Tensor] = {}

    def before(self) -> None:
        """Put back what an earlier part has changed."""
        for place in self._changed():
            self._buffers[place].copy_(self._before[place])
        self._versions = [buffer._version for buffer in self._buffers]

    def after(self, number: int) -> None:
        """Keep what the first part has changed."""
        if number == 0:
            self._first = {place: self._buffers[place].clone() for place in self._changed()}

    def settle(self, among: int) -> None:
        """Make the buffers what the first part has made of them, in all processes."""
        self.before()
        changed = bytearray(len(self._buffers))
        for place in self._first:
            changed[place] = 1
        device = self._buffers[0].device if self._buffers else torch.device("cpu")
        told = processes.first(bytes(changed), device) if among > 1 and self._buffers else bytes(changed)
        for place in (place for place, flag in enumerate(told) if flag):
            value = self._first.get(place, self._before[place])
            if among > 1:
                processes.take_over([value])
            self._buffers[place].copy_(value)

    def _changed(self) -> list[int]:
        each = enumerate(zip(self._buffers, self._versions, self._training, strict=True))
        return [place for place, (buffer, version, training) in each if training or buffer._version != version]
