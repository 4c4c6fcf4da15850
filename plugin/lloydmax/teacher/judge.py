"""Which of several students answers most like the teacher, on inputs that none of them was made with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lloydmax.data import Batch, Part, Source, random_order
from lloydmax.network.outputs import Leaf, class_axis, in_parts
from lloydmax.runtime import processes
from lloydmax.runtime.cache import number
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.teacher.agreement import Agreement, Comparison, differences
from lloydmax.teacher.kept import _BATCH

MOST_JUDGED = 128
"""Inputs by which students are compared at most."""
_SHARE, _FEWEST = 10, 32
"""One of so many inputs is held out, and how few are: but a third of the inputs at most."""
_WORSE = 1.5
"""How much worse one output may become where others become better."""
_NOTHING = 1e-6
"""Of the damage of one answer to all inputs: what is left then is that of the last digits of half floats."""
_FAR = 4.0
"""Times the damage of one answer to all made inputs: beyond, they tell nothing of real ones."""
_LEAST = 1e-12
"""Of the damage of one answer to all inputs: outputs that never change are not divided by zero."""

if TYPE_CHECKING:
    from lloydmax.runtime.cache import Cache

Answers = list[Tensor]


@dataclass(frozen=True)
class Damage:
    """How far a student's outputs are from the teacher's.

    Attributes:
        each: of every output, as a share of the damage of the same answer to all inputs, the best that there is.
    """

    each: tuple[float, ...]

    @property
    def mean(self) -> float:
        """All outputs count alike; infinite where one is not a number."""
        mean = sum(self.each) / len(self.each)
        return math.inf if math.isnan(mean) else mean

    @property
    def nothing(self) -> bool:
        """Whether it is so small that nothing can be won back."""
        return max(self.each) < _NOTHING

    def spares_all(self, other: Damage) -> bool:
        """Whether no output is much worse than in another student."""
        return all(ours <= _WORSE * theirs + _LEAST for ours, theirs in zip(self.each, other.each, strict=True))

    def times(self, factor: float) -> Damage:
        """The same, larger or smaller."""
        return Damage(tuple(one * factor for one in self.each))


@dataclass(frozen=True)
class Judged:
    """What codebooks do to the outputs.

    Attributes:
        settled: as they are.
        done: after steps that change codes, as far as these were run and make it better; else the same.
    """

    settled: Damage
    done: Damage

    def times(self, factor: float) -> Judged:
        """Both larger or smaller."""
        return Judged(self.settled.times(factor), self.done.times(factor))


class Judge:
    """Compares students with one teacher, output by output.

    Args:
        comparison: of the teacher with students, on the inputs that judge.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison, self._outputs = comparison, comparison.outputs
        self._usual: list[float] | None = None

    def damage(self, student: nn.Module) -> Damage:
        """How far a student is from the teacher; it runs in evaluation mode and is left as it was."""
        return self._damage(
            self._apart(student, lambda inputs, wanted: self._outputs.of(inputs.run(student), inputs, wanted))
        )

    def measured(self, student: nn.Module) -> Agreement:
        """All that a student agrees with the teacher in."""
        return self.comparison.measure(student, tokens=True)

    def of(self, agreement: Agreement) -> Damage:
        """The damage that :meth:`measured` tells."""
        return self._damage(agreement.apart)

    @property
    def guesses(self) -> bool:
        """Whether the inputs are made, and of real numbers: words hold all there is."""
        source = self.comparison.source
        return source.made and any(tensor.is_floating_point() for tensor in source.first(1).tensors())

    def tells(self, damage: Damage) -> bool:
        """Whether that a student is better on these inputs tells of others: not on made ones to which its answers are
        far worse than one answer to all of them."""
        return damage.mean < _FAR or not self.guesses

    def _damage(self, apart: Sequence[float]) -> Damage:
        if self._usual is None:
            self._usual = self._of_one_answer()
        return Damage(tuple(one / usual for one, usual in zip(apart, self._usual, strict=True)))

    def _of_one_answer(self) -> list[float]:
        """The damage of what the teacher gives on average."""
        teacher, leaves = self.comparison.teacher, self._outputs.leaves
        seen: list[list[tuple[Tensor, int]]] = [[] for _ in leaves]

        def see(_: Batch, wanted: Answers) -> Answers:
            for found, one, leaf in zip(seen, wanted, leaves, strict=True):
                found.append((_typical(one, leaf), one.numel()))
            return wanted

        self._apart(teacher, see)
        means = [_mean(found, device_of(teacher)) for found in seen]
        usual = self._apart(
            teacher, lambda _, wanted: [_alike(*each) for each in zip(means, wanted, leaves, strict=True)]
        )
        return [max(one, _LEAST) for one in usual]

    def _apart(self, model: nn.Module, answers: Callable[[Batch, Answers], Answers]) -> list[float]:
        """The mean difference of each of these answers from the teacher's."""
        comparison, leaves, device = self.comparison, self._outputs.leaves, device_of(model)
        sums = processes.Sums(2 * len(leaves))
        with evaluating(model, comparison.teacher):
            mine = processes.share(comparison.order, _BATCH)
            for indices, batch in comparison.outputs.batches(comparison.source, _BATCH, mine):
                inputs = batch.to(device, channels_last=True)
                wanted = comparison.targets.of(indices, inputs)
                pairs = zip(answers(inputs, wanted), wanted, leaves, strict=True)
                for place, (all_ours, all_theirs, leaf) in enumerate(pairs):
                    for ours, theirs in in_parts(leaf, all_ours, all_theirs):
                        each = differences(ours, theirs, leaf)
                        sums.add([float(each.double().sum()), each.numel()], at=2 * place)
                del wanted, pairs, all_ours, all_theirs, ours, theirs  # large ones are not to be there twice
        totals = sums.totals(device)
        return [total / max(count, 1) for total, count in zip(totals[::2], totals[1::2], strict=True)]


def _mean(found: list[tuple[Tensor, int]], device: torch.device) -> Tensor:
    """The mean of what is ``(typical, values)`` of each batch, over all processes."""
    rows = [torch.cat([(one * count).reshape(-1), one.new_tensor([count])]) for one, count in found]
    every = processes.gathered(torch.stack(rows) if rows else torch.zeros(0, 0), device).to(device)
    shape = found[0][0].shape if found else every.shape[1:] if every.shape[1] > 2 else ()
    return every[:, :-1].contiguous().view(-1, *shape).sum(0) / every[:, -1].sum()


def _typical(wanted: Tensor, leaf: Leaf) -> Tensor:
    """The mean of probabilities ``(classes,)``, or of values, 0-dim."""
    axis = class_axis(wanted) if leaf.decides else None
    if axis is None:
        values = wanted.double()
        return values[values.isfinite()].mean().nan_to_num()
    total, decisions = torch.zeros((), dtype=torch.float64, device=wanted.device), wanted.numel() // wanted.shape[axis]
    for (part,) in in_parts(leaf, wanted):
        at = class_axis(part)
        assert at is not None
        shares = leaf.logits(part).double().softmax(at).movedim(at, -1).reshape(-1, part.shape[at])
        if len(shares) == decisions:
            return shares.mean(0)
        total = total + shares.sum(0)
    return total / decisions


def _alike(mean: Tensor, wanted: Tensor, leaf: Leaf) -> Tensor:
    """That mean as the answer to all inputs."""
    axis = class_axis(wanted) if leaf.decides else None
    if axis is None:
        return mean.to(wanted.dtype).expand_as(wanted)
    answer = mean if leaf.normal else mean.clamp(min=_LEAST).log()
    return answer.to(wanted.dtype).view([-1 if at == axis else 1 for at in range(wanted.dim())]).expand_as(wanted)


def held_out(source: Source, most: int, few: bool, seed: int, cache: Cache | None = None) -> tuple[Source, Source]:
    """A source in two: inputs to work with, and inputs that nothing learns from.

    Args:
        source: unlabelled inputs.
        most: inputs that are held out: a tenth, if that is 32 or more.
        few: of fewer than 320 inputs 32 are held out nevertheless, or a third; else none are, and both parts are the
            source. A single input is in both parts, with a warning.
        seed: of the draw.
        cache: runs that share it and the source share the parts.
    """
    count = min(len(source) // _SHARE, most)
    if count < _FEWEST:
        count = min(_FEWEST, -(-len(source) // 3), len(source) - 1) if few else 0
    if not count:
        if few:
            warnings.warn(
                "the data hold one input, none can be held out: what is kept is judged by the input that it was made "
                "with; give more of them, 100 for example",
                stacklevel=4,
            )
        return source, source

    def divided() -> tuple[Source, Source]:
        order = random_order(len(source), seed=seed)
        unseen, others = order[:count].sort().values, order[count:].sort().values
        return Part(source, others, "without those held out"), Part(source, unseen, "held out from every step")

    return divided() if cache is None else cache.get(("held out", number(source), seed, count), divided)
