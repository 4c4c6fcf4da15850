"""The teacher's outputs, computed once and kept."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lloydmax.errors import OutputError, RecoveryError
from lloydmax.network.outputs import Outputs
from lloydmax.runtime import processes
from lloydmax.runtime.cache import number
from lloydmax.runtime.digest import fingerprint, model_fingerprint
from lloydmax.runtime.mapped import Mapped
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.teacher.finite import OddOutputs
from lloydmax.teacher.refusal import ask
from lloydmax.teacher.trial import trial

if TYPE_CHECKING:
    from lloydmax.data import Batch, Source
    from lloydmax.hooks.events import Events
    from lloydmax.runtime.cache import Cache

MEMORY_LIMIT = 1 << 28
"""Bytes of one output that stay in memory; more go to a memory-mapped file."""
LARGE, MOST_KEPT = 1 << 20, 3 << 29
"""Bytes of a sample's outputs that are large, and of all such that are kept: more are computed again each time."""
_BATCH = 64


class RaggedOutputsError(RecoveryError):
    """Outputs whose shape depends on the batch."""


class LargeOutputsError(RecoveryError):
    """Outputs that take too much room."""


class TeacherOutputs:
    """The teacher's outputs on chosen samples, computed once and kept, samples along the first axis.

    They stay in memory up to :data:`MEMORY_LIMIT` bytes and go to memory-mapped files beyond, whose pages are let go of
    after each use.

    Attributes:
        odd: samples whose outputs are not finite, with the reason.

    Args:
        teacher: the original model; run in evaluation mode, left as it was.
        source: the unlabelled inputs.
        order: int64 indices of the samples to run.
        outputs: which of them count, as a :func:`trial` tells.
        batch_size: samples of one forward pass.
        workdir: where the files go; ``None``: the system's temporary folder.
        events: where progress is reported, as stage ``teacher``; ``None``: nowhere.

    Raises:
        RaggedOutputsError: the outputs of different batches differ in shape beyond the first axis.
        LargeOutputsError: they are :data:`LARGE`, and take more than :data:`MOST_KEPT`.
        OutputError: there is no room for the files.
    """

    @classmethod
    def keep(
        cls,
        teacher: nn.Module,
        source: Source,
        order: Tensor,
        outputs: Outputs,
        workdir: Path | None = None,
        cache: Cache | None = None,
        events: Events | None = None,
    ) -> TeacherOutputs | None:
        """The outputs, or ``None`` where they cannot be kept: inputs that differ each time, or are padded to the length
        of what else is in the batch, outputs that depend on the batch, or too many of them.

        With a ``cache``, runs that share it and the source, and whose teachers have the same
        modules, attributes and values, share them.
        """
        if not (outputs.repeat and source.deterministic) or source.varies:
            return None
        try:
            if cache is None:
                made = cls(teacher, source, order, outputs, workdir=workdir, events=events)
                source.leave_out(made.odd, len(order))
                return made
            name = ("outputs", model_fingerprint(teacher), number(source), fingerprint([order]), outputs)
            kept = cache.get(name, lambda: cls(teacher, source, order, outputs, workdir=workdir, events=events))
            source.leave_out(kept.odd, len(order))
            return kept
        except (RaggedOutputsError, LargeOutputsError):
            return None

    def __init__(
        self,
        teacher: nn.Module,
        source: Source,
        order: Tensor,
        outputs: Outputs,
        batch_size: int = _BATCH,
        workdir: Path | None = None,
        events: Events | None = None,
    ) -> None:
        self.position = torch.full((len(source),), -1, dtype=torch.int64)
        self.position[order] = torch.arange(len(order))
        self._files = Mapped(workdir, "output")
        self._kept: list[Tensor] = []
        device = device_of(teacher)
        odd = OddOutputs(order, len(source), outputs)
        shared = len(order) > batch_size * (processes.size() - 1)  # a batch for each process
        mine = processes.share(order, batch_size) if shared else order
        stage = events.stage("teacher", total=len(mine)) if events else nullcontext()
        done = 0
        with evaluating(teacher), stage:
            for indices, batch in outputs.batches(source, batch_size, mine):
                inputs = batch.to(device, channels_last=True)
                tensors = outputs.read(ask(teacher, inputs), inputs)
                odd.add(indices, tensors, inputs)
                if not self._kept:
                    each = sum(tensor[:1].nbytes for tensor in tensors)
                    if each > LARGE and each * len(order) > MOST_KEPT:
                        raise LargeOutputsError(f"the outputs of {len(order)} samples take {each} bytes each")
                    self._kept = [self._room(len(order), tensor) for tensor in tensors]
                for kept, tensor in zip(self._kept, tensors, strict=True):
                    if tensor.shape[:1] != indices.shape or tensor.shape[1:] != kept.shape[1:]:
                        raise RaggedOutputsError(
                            f"the teacher's output has shape {tuple(tensor.shape)} for {len(indices)} inputs, "
                            f"{tuple(kept.shape[1:])} a sample before: such outputs cannot be kept"
                        )
                    kept[self.position[indices]] = tensor.to(kept.device)
                self._files.let_go()
                done += len(indices)
                if events:
                    events.step("teacher", done, len(mine), {})
        if shared:
            for kept in self._kept:
                processes.exchange(kept, device, batch_size)
        self.odd = odd.found(device, batch_size)

    def rows(self, indices: Tensor, device: torch.device) -> list[Tensor]:
        """The outputs of these samples, one tensor ``(len(indices), ...)`` for each output, on ``device``."""
        positions = self.position[indices]
        found = [kept[positions].to(device, non_blocking=True) for kept in self._kept]
        self._files.let_go()
        return found

    @property
    def bytes(self) -> int:
        """Of all kept outputs."""
        return sum(kept.nbytes for kept in self._kept)

    def close(self) -> None:
        """Drop the outputs and remove their files."""
        self._kept = []
        self._files.close()

    def _room(self, samples: int, tensor: Tensor) -> Tensor:
        shape = (samples, *tensor.shape[1:])
        size = samples * tensor[:1].numel() * tensor.element_size()
        if size <= MEMORY_LIMIT:
            return torch.empty(shape, dtype=tensor.dtype)
        try:
            return self._files.take(size).view(tensor.dtype).view(shape)
        except OutputError as error:
            raise OutputError(f"the outputs of the original: {error}: set workdir to a folder with space") from error


class Targets:
    """What the teacher gives for samples of one source: kept where it can be, see :meth:`TeacherOutputs.keep`, else
    computed again each time.

    Args:
        teacher: the original model; run in evaluation mode, left as it was.
        source: the unlabelled inputs.
        order: int64 indices of the samples that will be asked for.
        output: which output counts, see :func:`~lloydmax.network.trees.output_tensors`, or what a
            :func:`trial` found, which is made otherwise.
        workdir: where large outputs go; ``None``: the system's temporary folder.
        cache: shared with other runs, or ``None``.
        events: where progress is reported, as stage ``teacher``; ``None``: nowhere.
        keep: whether a sample is the same input each time.

    Attributes:
        outputs: how outputs are read, the student's, too.

    Raises:
        DataError, RecoveryError: as :func:`trial`.
    """

    def __init__(
        self,
        teacher: nn.Module,
        source: Source,
        order: Tensor,
        output: str | int | Outputs | None = None,
        *,
        workdir: Path | None = None,
        cache: Cache | None = None,
        events: Events | None = None,
        keep: bool = True,
    ) -> None:
        self.teacher, self._cache = teacher, cache
        self.outputs = output if isinstance(output, Outputs) else trial(teacher, source, output)
        self._kept = TeacherOutputs.keep(teacher, source, order, self.outputs, workdir, cache, events) if keep else None

    @property
    def kept(self) -> bool:
        """Whether the teacher has run for the last time."""
        return self._kept is not None

    def of(self, indices: Tensor, inputs: Batch) -> list[Tensor]:
        """The outputs for a batch, see :meth:`Outputs.of`, without gradients, on the device of its inputs.

        Args:
            indices: of the samples, int64.
            inputs: as the student gets them.
        """
        if self._kept is not None:
            return self.outputs.unpadded(self._kept.rows(indices, next(inputs.tensors()).device), inputs)
        with evaluating(self.teacher):
            return self.outputs.of(ask(self.teacher, inputs), inputs)

    def close(self) -> None:
        """Drop the kept outputs, unless a cache holds them for other runs."""
        if self._kept is not None and self._cache is None:
            self._kept.close()
