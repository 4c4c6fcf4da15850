"""Agreement: how alike teacher and student answer on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from lloydmax.data import random_order
from lloydmax.errors import RecoveryError
from lloydmax.network.outputs import Leaf, Outputs, class_axis, comparable, in_parts
from lloydmax.runtime import processes
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.teacher.finite import look
from lloydmax.teacher.fisher import unsure
from lloydmax.teacher.kept import _BATCH, Targets
from lloydmax.teacher.language import TokenFigures, TokenMeter, TokenOutputs
from lloydmax.teacher.likeness import share, shared
from lloydmax.teacher.trial import trial

if TYPE_CHECKING:
    from lloydmax.data import Source
    from lloydmax.hooks.events import Events
    from lloydmax.runtime.cache import Cache


@dataclass(frozen=True)
class Agreement:
    """How alike two models answer.

    Attributes:
        top1: share of decisions with the same top-1, 0 to 1; ``None`` where there are no classes.
        kl: mean Kullback-Leibler divergence from teacher to student in nats; ``None`` likewise.
        mse: mean squared difference of the outputs, but of those that are infinite in the teacher.
        samples: number of inputs that were compared.
        damage: how far apart in what the outputs tell, see :func:`differences`: the mean over the outputs of the mean
            over each; ``None`` in what earlier versions wrote.
        alike: for each output that counts, how alike in what it tells, 0 to 1, see
            :data:`~lloydmax.network.kinds.ALIKE`; empty in what earlier versions wrote.
        apart: for each output the mean of :func:`differences`, whose mean is ``damage``; likewise.
        tokens: the same for every token, where the outputs are of tokens and it was asked for.
    """

    top1: float | None
    kl: float | None
    mse: float
    samples: int
    damage: float | None = None
    alike: tuple[float, ...] = ()
    apart: tuple[float, ...] = ()
    tokens: TokenFigures | None = None

    @property
    def agreed(self) -> float | None:
        """How alike in the output that is least alike, 0 to 1: of a classifier the same as ``top1``."""
        return min(self.alike, default=self.top1)

    @classmethod
    def read(cls, kept: Any) -> Agreement:
        """What :func:`dataclasses.asdict` gave of one.

        Raises:
            TypeError, ValueError, OverflowError: it is something else.
        """
        tokens = kept.get("tokens")
        tokens = None if tokens is None else TokenFigures(**tokens)
        each = {name: tuple(kept.get(name, ())) for name in ("alike", "apart")}
        found = cls(**kept | each | {"tokens": tokens})
        for value in (found.top1 or 0.0, found.kl or 0.0, found.mse, found.samples, *found.alike, *found.apart):
            if isinstance(value, str):
                raise TypeError(f"{value!r} is not a number")
            float(value)
        return found


class Comparison:
    """Compares students with one teacher on the same inputs.

    The teacher runs once, or with every student where reading an input twice gives different views of it.

    Args:
        teacher: the original.
        source: unlabelled inputs.
        samples: how many of them, drawn with ``seed``; or int64 indices of the ones to use.
        key: which output counts, see :func:`~lloydmax.network.trees.output_tensors`, or what a trial found;
            the first with classes decides the agreement.
        cache: shared with other runs, see :meth:`TeacherOutputs.keep`.
        events: where the progress of the teacher is reported; ``None``: nowhere.
    """

    def __init__(
        self,
        teacher: nn.Module,
        source: Source,
        samples: int | Tensor = 1000,
        seed: int = 0,
        key: str | int | Outputs | None = None,
        cache: Cache | None = None,
        events: Events | None = None,
    ) -> None:
        self.teacher, self.source = teacher, source
        drawn = samples if isinstance(samples, Tensor) else random_order(len(source), samples, seed)
        self.order = drawn.sort().values
        self.targets = Targets(teacher, source, self.order, key, cache=cache, events=events)
        self.outputs = self.targets.outputs
        if not self.targets.kept:
            look(teacher, source, self.outputs, self.order)

    def describe(self) -> str:
        """What is measured on, for people."""
        what = self.source.describe()
        return what if len(self.order) == len(self.source) else f"{len(self.order):,} of {what}"

    def measure(
        self, student: nn.Module, told: Callable[[int, int], None] | None = None, tokens: bool = False
    ) -> Agreement:
        """Compare; the student runs in evaluation mode and is left as it was.

        Args:
            student: any model with the same outputs.
            told: called after every batch with the samples done, and how many this process has to do.
            tokens: whether outputs of tokens are measured token by token, too.
        """
        meter = None if not tokens or self._of_tokens is None else TokenMeter(self._of_tokens, self.outputs)
        device, mine = device_of(student), processes.share(self.order, _BATCH)
        leaves, done = self.outputs.leaves, 0
        sums = processes.Sums(4 + 6 * len(leaves))
        with evaluating(student, self.teacher):
            for indices, batch in self.outputs.batches(self.source, _BATCH, mine):
                inputs = batch.to(device, channels_last=True)
                given = inputs.run(student)
                wanted = self.targets.of(indices, inputs)
                found = self.outputs.of(given, inputs, wanted)
                scores = self.outputs.scores(wanted)
                for place, leaf in enumerate(leaves):
                    for ours, theirs in in_parts(leaf, found[place], wanted[place]):
                        sums.add(_sums(ours, theirs, leaf), at=4 + 6 * place)
                        if scores is not None and place == scores[0]:
                            sums.add(_decisions(ours, theirs, leaf), at=1)
                if meter is not None:
                    meter.add(inputs, found, wanted)
                del given, wanted, found  # large ones are not to be there twice
                sums.add([len(indices)])
                done += len(indices)
                if told is not None:
                    told(done, len(mine))
        totals = sums.totals(device)
        done, same, kl, decisions = int(totals[0]), *totals[1:4]
        each = [totals[start : start + 6] for start in range(4, len(totals), 6)]
        apart = tuple(one[0] / max(one[1], 1) for one in each)
        damage = sum(apart) / len(apart)
        mse = sum(one[4] for one in each) / max(sum(one[5] for one in each), 1)
        alike = tuple(share(*one[2:4]) for one in each)
        if not decisions:
            return Agreement(None, None, mse, done, damage, alike, apart)
        of_tokens = None if meter is None else meter.figures(device)
        kl = max(kl, 0.0)  # which rounding can take below
        return Agreement(same / decisions, kl / decisions, mse, done, damage, alike, apart, of_tokens)

    @cached_property
    def _of_tokens(self) -> TokenOutputs | None:
        return TokenOutputs.of(self.teacher, self.source, self.outputs)


def _sums(student: Tensor, teacher: Tensor, leaf: Leaf) -> list[float]:
    """Of two outputs: the sum of the differences and their number, what is shared and could be, the squared differences
    and the number of values."""
    apart, both = differences(student, teacher, leaf), shared(student, teacher, leaf)
    ours, theirs = comparable(student, teacher)
    squared = float((ours.double() - theirs.double()).square().sum())
    return [float(apart.double().sum()), apart.numel(), *both, squared, teacher.numel() - int(teacher.isinf().sum())]


def _decisions(student: Tensor, teacher: Tensor, leaf: Leaf) -> list[float]:
    """Decisions with the same top-1, the sum of their divergences, and how many there are."""
    ours, theirs, axis = leaf.logits(student), leaf.logits(teacher), class_axis(teacher)
    assert axis is not None
    count = theirs.numel() // theirs.shape[axis]
    same = int((ours.argmax(axis) == theirs.argmax(axis)).sum())
    return [same, float(divergence(ours, theirs, axis)) * count, count]


def accuracy(model: nn.Module, source: Source, labels: Tensor, key: str | int | Outputs | None = None) -> float:
    """Share of inputs whose top-1 is the label, 0 to 1; labels serve to report, never to train.

    Args:
        model: run in evaluation mode, left as it was.
        source: inputs.
        labels: int64 class numbers ``(len(source),)``.
        key: which output counts, or what a trial found.

    Raises:
        RecoveryError: the output is not ``(N, classes)``.
    """
    device, right, seen = device_of(model), 0, 0
    outputs = key if isinstance(key, Outputs) else trial(model, source, key)
    whole = replace(outputs, leaves=(replace(outputs.leaves[0], part=None),))  # labels say that these are classes
    with evaluating(model):
        for indices, batch in source.batches(_BATCH):
            inputs = batch.to(device, channels_last=True)
            scores = whole.of(inputs.run(model), inputs)[0]
            if scores.dim() != 2:
                raise RecoveryError(f"accuracy needs an output of shape (N, classes), got {tuple(scores.shape)}")
            if (largest := int(labels.max())) >= scores.shape[1]:
                raise RecoveryError(f"class {largest} is not one of the {scores.shape[1]} that the model tells apart")
            right += int((scores.argmax(1).cpu() == labels[indices]).sum())
            seen += len(indices)
    return right / seen


def differences(student: Tensor, teacher: Tensor, leaf: Leaf) -> Tensor:
    """How far two outputs are apart in what they tell, samples along the first axis: the KL divergence of every
    decision in nats, that of every independent score, or half the squared difference over the variance of quantities
    and of what is unclear; near 0 the curvature is that of :func:`~lloydmax.teacher.fisher.fisher_draw`.

    Args:
        student, teacher: of one shape.
        leaf: what they tell.
    """
    if leaf.decides and (axis := class_axis(teacher)) is not None:
        return divergences(leaf.logits(student), leaf.logits(teacher), axis)
    student, teacher = (tensor.float() for tensor in comparable(student, teacher))
    if leaf.kind == "scores":
        p, q = unsure(leaf.probabilities(teacher)), unsure(leaf.probabilities(student))
        return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return (student - teacher).square() / (2 * leaf.spread**2)


def divergence(student: Tensor, teacher: Tensor, axis: int, temperature: float = 1.0) -> Tensor:
    """The mean of :func:`divergences`; float32, 0-dim."""
    return divergences(student, teacher, axis, temperature).mean()


def divergences(student: Tensor, teacher: Tensor, axis: int, temperature: float = 1.0) -> Tensor:
    """``KL(softmax(teacher / t) || softmax(student / t))`` in nats of every decision: their shape without ``axis``.
    A class of probability 0 adds 0."""
    ours = F.log_softmax(student.float() / temperature, axis)
    theirs = F.log_softmax(teacher.float() / temperature, axis)
    p = theirs.exp()
    return (p * (theirs - ours)).masked_fill(p == 0, 0).sum(axis)
