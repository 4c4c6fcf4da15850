"""Samples for which the teacher gives NaN or infinities: found where it runs anyway, and left out by their source."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lloydmax.data import Batch, Source
from lloydmax.data.left_out import most
from lloydmax.network.outputs import Outputs
from lloydmax.runtime import processes
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.runtime.seeding import seeded
from lloydmax.teacher.refusal import ask

LOOKED_AT = 1000
"""Samples at most of a pass that serves nothing else."""
HUGE = 1e19
"""What counts as infinite: its square is beyond float32."""
_NAN, _INFINITE = "the original's output for it is NaN", "the original's output for it is infinite, or above 1e19"
_BATCH = 64


class OddOutputs:
    """Which samples have outputs that are not finite, batch by batch; one norm an output where all are.

    A value that is infinite in every sample is meant (a class that is masked out), and so is minus infinity in more
    samples than may be left out (masks that differ).

    Args:
        order: int64 indices of all samples that will be added, by this process or others.
        samples: of the source.
        outputs: how what the teacher returns was read.
    """

    def __init__(self, order: Tensor, samples: int, outputs: Outputs) -> None:
        self._order, self._outputs, self._given = order, outputs, False
        self._place = torch.full((samples,), -1, dtype=torch.int64)
        self._place[order] = torch.arange(len(order))
        self._nan = torch.zeros(len(order), dtype=torch.bool)
        self._counts: dict[int, Tensor] = {}
        self._always: dict[int, Tensor] = {}

    def add(self, indices: Tensor, tensors: Sequence[Tensor], inputs: Batch) -> None:
        """Take in what :meth:`Outputs.read` gives for a batch of samples; outputs not divided into them are ignored."""
        for number, tensor in enumerate(tensors):
            if not tensor.dim() or not len(indices) or len(tensor) % len(indices):
                continue
            values = tensor.detach().float()
            if bool(torch.linalg.vector_norm(values) < HUGE):
                self._always[number] = torch.zeros(2, 0, dtype=torch.bool)
                continue
            rows = self._outputs.blanked(values, inputs).reshape(len(indices), -1)
            self._nan[self._place[indices]] |= torch.isnan(rows).any(1).cpu()
            infinite = torch.stack([rows > HUGE, rows < -HUGE])
            counts = self._counts.setdefault(number, torch.zeros(2, len(self._order), dtype=torch.int64))
            counts[:, self._place[indices]] = infinite.sum(2).cpu()
            here = infinite.all(1).cpu()
            before = self._always.get(number, here)
            self._always[number] = before & here if before.shape == here.shape else here[:, :0]

    def found(self, device: torch.device, batch: int = _BATCH) -> dict[int, str]:
        """The samples, with the reason; of all processes, which had shares in batches of this size, or all."""
        above, below = torch.zeros(2, len(self._order), dtype=torch.bool)
        for number, counts in self._counts.items():
            more = counts > self._always[number].sum(1, keepdim=True)
            above, below = above | more[0], below | more[1]
        flags = torch.stack([self._nan, above, below], 1).to(torch.uint8)
        processes.exchange(flags, device, batch)
        nan, above, below = flags.bool().T
        if int((below & ~above & ~nan).sum()) > most(len(self._order)):
            below = torch.zeros_like(below)
        bad = torch.nonzero(nan | above | below)[:, 0]
        return {int(self._order[place]): _NAN if nan[place] else _INFINITE for place in bad}


def look(teacher: nn.Module, source: Source, outputs: Outputs, order: Tensor) -> None:
    """Leave out of ``source``, from now on, those of these samples for which the teacher gives no finite outputs.

    Args:
        teacher: run in evaluation mode, left as it was; so are the global random generators.
        source: the unlabelled inputs.
        outputs: how they are read.
        order: int64 indices; the first :data:`LOOKED_AT` are looked at.

    Raises:
        DataError: more than 1 % of them, and at least 2.
    """
    order, device = order[:LOOKED_AT], device_of(teacher)
    odd = OddOutputs(order, len(source), outputs)
    with seeded(0, teacher), evaluating(teacher):
        for indices, batch in outputs.batches(source, _BATCH, order):
            inputs = batch.to(device, channels_last=True)
            odd.add(indices, outputs.read(ask(teacher, inputs), inputs), inputs)
    source.leave_out(odd.found(device), len(order))
