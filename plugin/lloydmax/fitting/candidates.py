"""Which codebooks a file of one size holds: ways to spend its bits, compared by what they do to the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lloydmax.fitting.channels import EVEN, FREE, by_channel
from lloydmax.fitting.gates import by_gate
from lloydmax.fitting.price import Layer, Rates, alike, layers_of, prices, usual, weighed
from lloydmax.fitting.sizing import ROUNDS, Family, Fitted, Sized, Sizing
from lloydmax.network.parameters import weight_of
from lloydmax.plan.plan import Plan
from lloydmax.teacher.judge import Damage, Judged

if TYPE_CHECKING:
    from lloydmax.codebook.codebook import Codebook

Judging = Callable[["dict[str, Codebook]", bool], Judged]
"""The damage of codebooks, of which it is told whether all their bits have a price."""

_TEMPER = 2 / 3
"""Power of importance x mean square: where errors are large the damage grows more slowly than the squared error, from
which importances are derived (tests/benchmarks/levers.py compares powers)."""
_CLEARLY = 0.98
"""Of the damage of what was tried before."""
MOST_ROUNDS = 6 * ROUNDS
"""Sets of codebooks that are fitted at most, nearly."""
_NEAR, _OVER = 0.05, 0.25
"""Bits a weight by which a file may be too small, and too large, and is compared as if it had the size."""


@dataclass(frozen=True)
class Tried:
    """What was compared on inputs held out.

    Attributes:
        what: ``codebooks``, or ``step``.
        name: for people.
        damage: of the outputs, all alike, as a share of that of the same answer to all inputs.
        kept: whether it is in the model.
    """

    what: str
    name: str
    damage: float
    kept: bool


@dataclass(frozen=True)
class Spare:
    """What is taken in the end if recovery does not make the outputs of the choice better than its are.

    Attributes:
        name: of :class:`Tried`.
        plan: for codes that stay as they are.
        damage: of the outputs.
    """

    name: str
    plan: Plan
    damage: Damage


@dataclass(frozen=True)
class Choice:
    """A plan, and what it was compared with."""

    plan: Plan
    tried: tuple[Tried, ...] = ()
    spare: Spare | None = None


def chosen(
    model: nn.Module,
    plan: Plan,
    importances: dict[str, Tensor],
    fitted: Fitted,
    rates: Rates,
    judge: Judging | None = None,
    changed: bool = False,
    blind: bool = False,
    enough: Callable[[], bool] = lambda: False,
) -> Choice:
    """The plan whose file has the size of ``plan``, with the least damage of some: one price of a bit for errors that
    are weighed by importances to the power of two thirds or as they are, for each parameter as a whole, for all weights
    alike; then, weighed as in the best of these, an even grid and the centroids of k-means for each channel. Where
    recovery changes codes, only those whose bits have a price keep their entropy: one of the others that is best is
    spared for the end.

    That the coder needs more than the entropy, and what codebooks and header take, is learned from codebooks that are
    fitted on the way. Without a judge nothing is compared: the first candidate is taken.

    Args:
        model: the original.
        plan: of a recipe with ``bits``.
        importances: of the weights, by parameter name. Parameters without count alike, each as a whole, and as others
            do on average; without any inputs the first ones count more. Emptied once they are not needed: together they
            are as large as the model.
        fitted: fits the codebooks of a plan.
        rates: see :func:`~lloydmax.fitting.price.layers_of`.
        judge: the damage that codebooks do.
        changed: whether recovery changes codes.
        blind: whether there are no inputs at all.
        enough: asked before each further candidate: whether to end there.

    Raises:
        BudgetError: see :meth:`lloydmax.Plan.room`.
        FitError: no codebook can be fitted to a parameter, which it names.
    """
    layers, gated = layers_of(model, plan, importances, rates), by_gate(model, plan, importances)
    if gated is None:
        importances.clear()
    sizing, room = Sizing(model, plan, fitted, changed), 8.0 * plan.room(model)
    ways = _ways(layers, plan, blind)
    name, first = next(ways)
    family = prices(name, plan, first)
    found = sizing.filled(family, sizing.closest(family, room))
    if judge is None:
        return Choice(found.plan)
    contest = _Contest(sizing, judge, plan, family, found, changed)

    def others() -> Iterator[tuple[Family, dict[str, Layer] | None]]:
        for name, layers in ways:
            yield prices(name, plan, layers), layers
        if gated is not None:
            apart = weighed(layers_of(model, gated, importances, rates), _TEMPER)
            yield prices("a codebook for each gate", gated, apart), None
        for form in (EVEN, FREE):
            if (channels := by_channel(form, plan, contest.layers or first)) is not None:
                yield channels, None

    for one in takewhile(lambda _: not (contest.decided or enough()), others()):
        contest.enter(*one)
    return contest.result()


def _ways(layers: Mapping[str, Layer], plan: Plan, blind: bool) -> Iterator[tuple[str, dict[str, Layer]]]:
    """How errors of the parameters may be weighed, the usual one first."""
    if any(layer.energy for layer in layers.values()):
        yield "importances, tempered", weighed(layers, _TEMPER)
        yield "importances", weighed(layers, 1.0)
    elif blind:
        yield "as is usual for their depth and width", usual(layers, plan)
    yield WHOLE, weighed(layers, 0.0)
    if len(layers) > 1:
        yield "all weights alike", alike(layers)


WHOLE = "each parameter as a whole"
"""The way to spend bits where nothing is known of the inputs."""


Entry = tuple[Family, Sized, Judged]


class _Contest:
    """Candidates, and the best so far.

    Attributes:
        layers: weighed as in the best that has a price for all; ``None``: it is the first.
    """

    def __init__(self, sizing: Sizing, judge: Judging, plan: Plan, family: Family, first: Sized, changed: bool) -> None:
        self._sizing, self._judge, self._weights, self._changed = sizing, judge, plan.total_weights, changed
        self._entries: list[Entry] = []
        self.layers: dict[str, Layer] | None = None
        self._add(family, first)

    def enter(self, family: Family, layers: dict[str, Layer] | None = None) -> None:
        """Another candidate, beginning with the bits that the last one took."""
        self._add(family, self._sizing.closest(family, self._entries[-1][1].wanted, nearly=True))
        if layers is not None and self._best()[0] is family:
            self.layers = layers

    @property
    def decided(self) -> bool:
        """Whether no other candidate can do better."""
        return self._best()[2].done.nothing

    def result(self) -> Choice:
        """The best of them, of the right size, and the spare if another one is best where codes stay as they are."""
        best = self._best(damage=lambda judged: judged.settled)
        priced = [entry for entry in self._entries if entry[0].priced] if self._changed else self._entries
        taken = self._best(priced)
        tried = tuple(Tried("codebooks", one.name, each.done.mean, one is taken[0]) for one, _, each in self._entries)
        spare = None if taken is best else Spare(best[0].name, self._sized(best).plan, best[2].settled)
        return Choice(self._sized(taken).plan, tried, spare)

    def _sized(self, entry: Entry) -> Sized:
        family, sized, _ = entry
        if entry is self._entries[0]:
            return sized
        return self._sizing.filled(family, self._sizing.closest(family, sized.wanted))

    def _add(self, family: Family, sized: Sized) -> None:
        """Judge it as if its file had the size, where it nearly has: a bit a weight is worth a factor of four."""
        over = 8 * (sized.size - self._sizing.most) / self._weights
        factor = 4.0 ** min(max(over, -_NEAR), _OVER)
        factor = math.inf if self._starves(sized) else factor
        judged = self._judge(sized.codebooks, family.priced).times(factor)
        self._entries.append((family, replace(sized, codebooks={}), judged))

    def _starves(self, sized: Sized) -> bool:
        """Whether zeros would be nearer to the weights of some parameter."""
        model = self._sizing.model
        return any(codebook.starves(weight_of(model, name)) for name, codebook in sized.codebooks.items())

    def _best(
        self, entries: Sequence[Entry] = (), damage: Callable[[Judged], Damage] = lambda judged: judged.done
    ) -> Entry:
        """The least damage, of those that spare every output where the candidate without importances does; the first
        one unless another is clearly better."""
        entries = entries or self._entries
        usual = next((damage(judged) for family, _, judged in entries if family.name == WHOLE), None)
        best, least = entries[0], math.inf
        for entry in entries:
            done = damage(entry[2])
            if usual is not None and not done.spares_all(usual):
                continue
            if done.mean < (_CLEARLY if least < math.inf else 1.0) * least:
                best, least = entry, done.mean
        return best
