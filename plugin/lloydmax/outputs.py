"""What a model returns: the tensors that matter in it, the teacher's kept ones, and how two models compare."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lloydmax import distributed
from lloydmax.cache import fingerprint, model_fingerprint
from lloydmax.data import random_order
from lloydmax.errors import RecoveryError
from lloydmax.strategy import device_of, evaluating

if TYPE_CHECKING:
    from lloydmax.cache import Cache
    from lloydmax.data import Source
    from lloydmax.strategy import Events

MEMORY_LIMIT = 1 << 30
_BATCH = 64


def output_tensors(output: Any, key: str | int | None = None) -> list[Tensor]:
    """The floating tensors of a model's output.

    Args:
        output: a tensor, or a tuple, list, dict or Hugging Face ``ModelOutput`` of tensors.
        key: picks one by key, attribute or position. Without it, ``logits`` is taken where there is such a key,
            else every floating tensor at the top level.

    Raises:
        RecoveryError: nothing fits; the message lists what there is.
    """
    if key is not None:
        picked = _pick(output, key)
        if not isinstance(picked, Tensor):
            raise RecoveryError(f"the model's output has no tensor {key!r}; it has {_describe(output)}")
        return [picked]
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        values = [output["logits"]] if isinstance(output.get("logits"), Tensor) else list(output.values())
    elif isinstance(output, Sequence) and not isinstance(output, str):
        values = list(output)
    else:
        values = [getattr(output, "logits", None)]
    tensors = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    if not tensors:
        raise RecoveryError(f"the model's output holds no floating tensor: {_describe(output)}; name one by 'output'")
    return tensors


def class_axis(tensor: Tensor) -> int | None:
    """The axis of the classes: 1 for ``(N, C)`` and ``(N, C, H, W)``, the last for ``(N, T, C)``; ``None`` where
    there are none to choose from."""
    if tensor.dim() < 2:
        return None
    axis = 2 if tensor.dim() == 3 else 1
    return axis if tensor.shape[axis] > 1 else None


class RaggedOutputsError(RecoveryError):
    """Outputs whose shape depends on the batch."""


class TeacherOutputs:
    """The teacher's outputs on chosen samples, computed once and kept.

    They stay in memory up to :data:`MEMORY_LIMIT` bytes and go to memory-mapped files beyond.

    Args:
        teacher: the original model; run in evaluation mode, left as it was.
        source: the unlabelled inputs.
        order: int64 indices of the samples to run.
        key: see :func:`output_tensors`.
        batch_size: samples of one forward pass.
        workdir: where the files go; ``None``: the system's temporary folder.
        events: where progress is reported, as stage ``teacher``; ``None``: nowhere.

    Raises:
        RaggedOutputsError: the outputs of different batches differ in shape beyond the first axis.
    """

    @classmethod
    def keep(
        cls,
        teacher: nn.Module,
        source: Source,
        order: Tensor,
        key: str | int | None = None,
        workdir: Path | None = None,
        cache: Cache | None = None,
        events: Events | None = None,
    ) -> TeacherOutputs | None:
        """The outputs, or ``None`` where they cannot be kept: inputs that differ each time, ragged outputs.

        With a ``cache``, runs that share it and the source, and whose teachers have the same values, share them.
        """
        if not source.deterministic:
            return None
        try:
            if cache is None:
                return cls(teacher, source, order, key, workdir=workdir, events=events)
            name = ("outputs", model_fingerprint(teacher), id(source), fingerprint([order]), key)
            _, outputs = cache.get(
                name,
                lambda: (source, cls(teacher, source, order, key, workdir=workdir, events=events)),
                lambda made: made[1].bytes,
            )
            return outputs
        except RaggedOutputsError:
            return None

    def __init__(
        self,
        teacher: nn.Module,
        source: Source,
        order: Tensor,
        key: str | int | None = None,
        batch_size: int = _BATCH,
        workdir: Path | None = None,
        events: Events | None = None,
    ) -> None:
        self.position = torch.full((len(source),), -1, dtype=torch.int64)
        self.position[order] = torch.arange(len(order))
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._workdir = workdir
        self._kept: list[Tensor] = []
        device = device_of(teacher)
        mine = order if len(order) < distributed.size() else distributed.share(order)
        stage = events.stage("teacher", total=len(mine)) if events else nullcontext()
        done = 0
        with evaluating(teacher), stage:
            for indices, batch in source.batches(batch_size, mine):
                tensors = output_tensors(batch.to(device, channels_last=True).run(teacher), key)
                if not self._kept:
                    self._kept = [self._room(len(order), tensor, n) for n, tensor in enumerate(tensors)]
                for kept, tensor in zip(self._kept, tensors, strict=True):
                    if tensor.shape[:1] != indices.shape or tensor.shape[1:] != kept.shape[1:]:
                        raise RaggedOutputsError(
                            f"the teacher's output has shape {tuple(tensor.shape)} for {len(indices)} inputs, "
                            f"{tuple(kept.shape[1:])} a sample before: such outputs cannot be kept"
                        )
                    kept[self.position[indices]] = tensor.to(kept.device)
                done += len(indices)
                if events:
                    events.step("teacher", done, len(mine), {})
        if len(mine) < len(order):
            for kept in self._kept:
                distributed.exchange(kept, device)

    def rows(self, indices: Tensor, device: torch.device) -> list[Tensor]:
        """The outputs of these samples, one tensor ``(len(indices), ...)`` for each output, on ``device``."""
        positions = self.position[indices]
        return [kept[positions].to(device, non_blocking=True) for kept in self._kept]

    @property
    def bytes(self) -> int:
        """Of all kept outputs."""
        return sum(kept.nbytes for kept in self._kept)

    def close(self) -> None:
        """Drop the outputs and remove their files."""
        self._kept = []
        if self._folder is not None:
            self._folder.cleanup()

    def _room(self, samples: int, tensor: Tensor, number: int) -> Tensor:
        shape = (samples, *tensor.shape[1:])
        size = samples * tensor[:1].numel() * tensor.element_size()
        if size <= MEMORY_LIMIT:
            return torch.empty(shape, dtype=tensor.dtype)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="lloydmax-", dir=self._workdir)
        file = Path(self._folder.name) / f"output{number}"
        mapped = np.memmap(file, np.uint8, "w+", shape=(size,))
        return torch.from_numpy(mapped).view(tensor.dtype).view(shape)


@dataclass(frozen=True)
class Agreement:
    """How alike two models answer.

    Attributes:
        top1: share of decisions with the same top-1, 0 to 1; ``None`` where there are no classes.
        kl: mean Kullback-Leibler divergence from teacher to student in nats; ``None`` likewise.
        mse: mean squared difference of the outputs.
        samples: number of inputs.
    """

    top1: float | None
    kl: float | None
    mse: float
    samples: int


class Yardstick:
    """Measures students against one teacher on the same inputs.

    The teacher runs once, or with every student where reading an input twice gives different views of it.

    Args:
        teacher: the original.
        source: unlabelled inputs.
        samples: how many of them, drawn with ``seed``; or int64 indices of the ones to use.
        key: which output counts, see :func:`output_tensors`; the first with classes decides the agreement.
        cache: shared with other runs, see :meth:`TeacherOutputs.keep`.
        events: where the progress of the teacher is reported; ``None``: nowhere.
    """

    def __init__(
        self,
        teacher: nn.Module,
        source: Source,
        samples: int | Tensor = 1000,
        seed: int = 0,
        key: str | int | None = None,
        cache: Cache | None = None,
        events: Events | None = None,
    ) -> None:
        self.teacher, self.source, self.key = teacher, source, key
        drawn = samples if isinstance(samples, Tensor) else random_order(len(source), samples, seed)
        self.order = drawn.sort().values
        self.outputs = TeacherOutputs.keep(teacher, source, self.order, key, cache=cache, events=events)

    def describe(self) -> str:
        """What is measured on, for people."""
        what = self.source.describe()
        return what if len(self.order) == len(self.source) else f"{len(self.order):,} of {what}"

    def measure(self, student: nn.Module, told: Callable[[int, int], None] | None = None) -> Agreement:
        """Compare; the student runs in evaluation mode and is left as it was.

        Args:
            student: any model with the same outputs.
            told: called after every batch with the samples done, and how many this process has to do.
        """
        device, mine = device_of(student), distributed.share(self.order)
        same = decisions = done = 0
        kl = squared = 0.0
        values = 0
        with evaluating(student, self.teacher):
            for indices, batch in self.source.batches(_BATCH, mine):
                inputs = batch.to(device, channels_last=True)
                found = output_tensors(inputs.run(student), self.key)
                if self.outputs is not None:
                    wanted = self.outputs.rows(indices, device)
                else:
                    wanted = output_tensors(inputs.run(self.teacher), self.key)
                for ours, theirs in zip(found, wanted, strict=True):
                    squared += float((ours.double() - theirs.double()).square().sum())
                    values += ours.numel()
                pair = next(
                    ((o, t, axis) for o, t in zip(found, wanted, strict=True) if (axis := class_axis(t)) is not None),
                    None,
                )
                if pair is not None:
                    ours, theirs, axis = pair
                    same += int((ours.argmax(axis) == theirs.argmax(axis)).sum())
                    count = theirs.numel() // theirs.shape[axis]
                    decisions += count
                    kl += float(divergence(ours, theirs, axis)) * count
                done += len(indices)
                if told is not None:
                    told(done, len(mine))
        totals = distributed.summed([same, decisions, kl, squared, values], device)
        same, decisions, kl, squared, values = int(totals[0]), int(totals[1]), totals[2], totals[3], int(totals[4])
        if not decisions:
            return Agreement(None, None, squared / max(values, 1), len(self.order))
        return Agreement(same / decisions, kl / decisions, squared / values, len(self.order))


def accuracy(model: nn.Module, source: Source, labels: Tensor, key: str | int | None = None) -> float:
    """Share of inputs whose top-1 is the label, 0 to 1; labels serve to report, never to train.

    Args:
        model: run in evaluation mode, left as it was.
        source: inputs.
        labels: int64 class numbers ``(len(source),)``.
        key: which output counts.

    Raises:
        RecoveryError: the output is not ``(N, classes)``.
    """
    device, right = device_of(model), 0
    with evaluating(model):
        for indices, batch in source.batches(_BATCH):
            scores = output_tensors(batch.to(device, channels_last=True).run(model), key)[0]
            if scores.dim() != 2:
                raise RecoveryError(f"accuracy needs an output of shape (N, classes), got {tuple(scores.shape)}")
            right += int((scores.argmax(1).cpu() == labels[indices]).sum())
    return right / len(source)


def divergence(student: Tensor, teacher: Tensor, axis: int, temperature: float = 1.0) -> Tensor:
    """The mean of :func:`divergences`; float32, 0-dim."""
    return divergences(student, teacher, axis, temperature).mean()


def divergences(student: Tensor, teacher: Tensor, axis: int, temperature: float = 1.0) -> Tensor:
    """``KL(softmax(teacher / t) || softmax(student / t))`` in nats of every decision: their shape without ``axis``."""
    ours = F.log_softmax(student.float() / temperature, axis)
    theirs = F.log_softmax(teacher.float() / temperature, axis)
    return (theirs.exp() * (theirs - ours)).sum(axis)


def fisher_draws(outputs: Sequence[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
    """Two random scalars whose gradients ``g`` have ``E[g g^T]`` the Fisher information of the classes (summed over
    decisions), and the Gauss-Newton matrix of all outputs (summed over values).

    The first: with signs ``s`` and class probabilities ``p``, ``v = sqrt(p) s - p (sqrt(p) . s)`` has the covariance
    ``diag(p) - p p^T``, that of the gradient of the log-likelihood of a label drawn from ``p``.
    """
    classes = next((o for o in outputs if class_axis(o) is not None), None)
    if classes is None:
        yield torch.stack([output.sum() * 0.0 for output in outputs if output.requires_grad]).sum()
    else:
        axis = class_axis(classes)
        assert axis is not None
        p = classes.detach().float().softmax(axis)
        spread = p.sqrt() * _signs(p, generator)
        yield (classes.float() * (spread - p * spread.sum(axis, keepdim=True))).sum()
    yield torch.stack([(o.float() * _signs(o, generator)).sum() for o in outputs]).sum()


def _pick(output: Any, key: str | int) -> Any:
    if isinstance(key, int):
        return output[key] if isinstance(output, Sequence) and -len(output) <= key < len(output) else None
    return output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)


def _describe(output: Any) -> str:
    if isinstance(output, Mapping):
        return "keys " + ", ".join(map(str, output))
    if isinstance(output, Sequence):
        return f"{len(output)} items: " + ", ".join(type(item).__name__ for item in output)
    return type(output).__name__


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like.device, torch.float32)
