"""How a search is done: choose, measure the whole model, correct, choose again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lloydmax.choosing.damage import Floats
from lloydmax.choosing.reach import file_bytes, file_limit, refuse_over
from lloydmax.choosing.sweeping import Trials
from lloydmax.hooks.protocols import SearchMethod
from lloydmax.hooks.units import BudgetError, Choice, Unit, total_bytes, total_damage
from lloydmax.recipe.search import Budget
from lloydmax.teacher.agreement import Agreement

_PRECISION = 500
"""A search for an agreement stops where a 500th of the bytes is left open."""
_CLOSER = 4
"""Sizes that are tried around an agreement that is wanted."""
_REACH = 2
"""Steps from the chosen number of centroids that a correction may go."""


@dataclass(frozen=True)
class Trial:
    """One choice of centroids for the whole model.

    Attributes:
        choice: unit -> centroids.
        predicted: damage, the sum of what the units do alone.
        measured: the whole compressed model against the teacher, before recovery.
        file_bytes: predicted size of the file, exact but for entropy-coded codes.
        reduction: share of the original bytes that the file saves.
        bits: of an average quantized weight, codebooks counted.
    """

    choice: dict[str, int]
    predicted: float
    measured: Agreement
    file_bytes: int
    reduction: float
    bits: float

    @property
    def damage(self) -> float:
        """How far apart in what the outputs tell: of classes the KL divergence in nats."""
        return self.measured.damage or 0.0


class Searcher:
    """The choices measured so far, and the two kinds of search."""

    def __init__(
        self, trials: Trials, units: list[Unit], projected: Floats | None, method: SearchMethod, corrections: int
    ) -> None:
        self.setup, self.units, self.projected, self.method = trials, units, projected, method
        self.corrections = corrections
        self.weights = sum(unit.weights for unit in units)
        self.trials: dict[str, Trial] = {}
        self._most = 2 + corrections

    def within(self, budget: Budget) -> tuple[Trial, Trial | None]:
        """The least damage under a budget of bytes, bits or reduction; and the uniform choice."""
        room = self._room(budget)
        choice = self._choose(self.units, room, budget)
        best = self._measured(choice)
        uniform = self._uniform(lambda choice: self._keeps(choice, budget))
        if uniform is not None and uniform.damage < best.damage:
            best = uniform
        reach = _REACH
        for _ in range(self.corrections):
            try:
                trial = self._measured(self._choose(self._corrected(best, reach), room, budget))
            except BudgetError:
                break
            if trial.damage < best.damage:
                best = trial
            elif reach > 1:
                reach -= 1
            else:
                break
        return best, uniform

    def agreeing(self, target: float) -> tuple[Trial, Trial | None]:
        """The smallest file found whose measured agreement is at least ``target``; and the uniform choice."""
        self._most += math.ceil(math.log2(_PRECISION)) + len(self._numbers())
        low, high = (sum(end(o.bytes for o in unit.options) for unit in self.units) for end in (min, max))
        best = self._measured(self.method.choose(self.units, high))
        if not self._agrees(best, target):
            raise BudgetError(
                f"no choice reaches an agreement of {target}: with the most centroids allowed it is "
                f"{best.measured.agreed or 0.0:.4f} before recovery; allow more centroids or lower the budget"
            )
        while high - low > max(1, high // _PRECISION):
            middle = (low + high) // 2
            trial = self._measured(self.method.choose(self.units, middle))
            if self._agrees(trial, target):
                best, high = trial, middle
            else:
                low = middle
        for k in self._numbers():
            uniform = self._measured({unit.name: _nearest(unit, k) for unit in self.units})
            if self._agrees(uniform, target):
                best = min(best, uniform, key=lambda trial: trial.file_bytes)
                break
        for _ in range(self.corrections):
            try:
                room = total_bytes(self.units, best.choice) * (_PRECISION - 10) // _PRECISION
                trial = self._measured(self.method.choose(self._corrected(best, _REACH), room))
            except BudgetError:
                break
            if not self._agrees(trial, target):
                break
            best = trial
        return best, uniform

    def sizes(self, points: int, target: float | None) -> list[Trial]:
        """Choices of every size, the smallest first, each of which agrees more than all smaller ones.

        Args:
            points: how many rooms are tried, evenly by their logarithm.
            target: an agreement around which more are tried.
        """
        low, high = (sum(end(o.bytes for o in unit.options) for unit in self.units) for end in (min, max))
        rooms = [round(low * (high / low) ** (n / (points - 1))) for n in range(points)]
        self._most = points + _CLOSER * (target is not None)
        measured = {room: self._measured(self.method.choose(self.units, room)) for room in rooms}
        for _ in range(_CLOSER if target is not None else 0):
            enough = min((room for room, trial in measured.items() if self._agrees(trial, target or 0)), default=None)
            below = [room for room in measured if enough is None or room < enough]
            if enough is None or not below or enough - max(below) < max(2, enough // _PRECISION):
                break
            middle = (enough + max(below)) // 2
            measured[middle] = self._measured(self.method.choose(self.units, middle))
        kept: list[Trial] = []
        for trial in sorted(self.trials.values(), key=lambda t: (t.file_bytes, -(t.measured.agreed or 0.0))):
            if not kept or (trial.measured.agreed or 0.0) > (kept[-1].measured.agreed or 0.0):
                kept.append(trial)
        return kept

    @staticmethod
    def _agrees(trial: Trial, target: float) -> bool:
        return (trial.measured.agreed or 0.0) >= target

    def _room(self, budget: Budget) -> int:
        """Bytes that codes and codebooks may take."""
        name, value = budget.given
        assert value is not None
        if name == "bits":
            return int(value * self.weights / 8)
        limit = file_limit(budget, self.setup.plan)
        least = {unit.name: min(unit.options, key=lambda o: o.bytes).centroids for unit in self.units}
        smallest = self._file_bytes(least)
        refuse_over(budget, self.setup.plan, smallest)
        return limit - (smallest - total_bytes(self.units, least))

    def _keeps(self, choice: Choice, budget: Budget) -> bool:
        if budget.bits is not None:
            return total_bytes(self.units, choice) * 8 <= budget.bits * self.weights
        return self._file_bytes(choice) <= file_limit(budget, self.setup.plan)

    def _choose(self, units: Sequence[Unit], room: int, budget: Budget) -> dict[str, int]:
        """The method's choice; with less room where the recipe in the file's header takes the budget over its limit."""
        while True:
            choice = self.method.choose(units, room)
            if self._keeps(choice, budget):
                return choice
            over = 1 if budget.bits is not None else self._file_bytes(choice) - file_limit(budget, self.setup.plan)
            room = min(room, total_bytes(units, choice)) - max(1, over)

    def _corrected(self, trial: Trial, reach: int) -> list[Unit]:
        """The units with the damage that a change would add to a measured choice.

        Up to second order it is ``g^T d + d^T F d / 2``: ``d`` the change of the weights, ``g`` the gradient of the
        measured damage, ``F`` as in :mod:`lloydmax.choosing.damage`. Where that was not estimated, the errors before
        and after count as independent. Only options up to ``reach`` steps from the chosen ones are kept.
        """
        setup, bench = self.setup, self.setup.bench
        options = [(name, k) for name, ks in bench.tried.items() for k in ks]
        slope = dict(zip(options, bench.slopes(setup.choices(trial.choice), options), strict=True))
        column = {pair: n for n, pair in enumerate(setup.pairs())}
        found = []
        for unit in self.units:
            here = unit.option(trial.choice[unit.name])
            at, near = unit.options.index(here), []
            for option in unit.options[max(0, at - reach) : at + reach + 1]:
                damage = sum(slope[pair] for pair in setup.choice(unit.name, option.centroids).items())
                if self.projected is not None:
                    to, origin = (self.projected[:, column[unit.name, o.centroids]] for o in (option, here))
                    damage += float(np.square(to - origin).sum())
                elif option is not here:
                    damage += option.damage + here.damage
                near.append(replace(option, damage=damage))
            found.append(replace(unit, options=tuple(near)))
        return found

    def _uniform(self, keeps: Callable[[Choice], bool]) -> Trial | None:
        """The largest number of centroids that is the same for all and keeps the budget."""
        for k in reversed(self._numbers()):
            choice = {unit.name: _nearest(unit, k) for unit in self.units}
            if keeps(choice):
                return self._measured(choice)
        return None

    def _numbers(self) -> list[int]:
        """Numbers of centroids of the largest unit that has a choice."""
        free = [unit for unit in self.units if len(unit.options) > 1] or self.units
        return [option.centroids for option in max(free, key=lambda unit: unit.weights).options]

    def _file_bytes(self, choice: Choice) -> int:
        """Size of the file of the recipe that this choice gives."""
        setup, centroids = self.setup, self.setup.choices(choice)
        planned = [p.with_centroids(centroids[name]) for name, p in setup.plan.parameters.items()]
        entropy = setup.recipe.storage.codes != "packed"
        streams = {p.name: setup.stream(p) for p in planned} if entropy else {}
        return file_bytes(setup.bench.original, setup.recipe, setup.plan, centroids, streams)

    def _measured(self, choice: Choice) -> Trial:
        key = json.dumps(sorted(choice.items()))
        if key not in self.trials:
            size = self._file_bytes(choice)
            self.trials[key] = Trial(
                dict(choice),
                total_damage(self.units, choice),
                self.setup.bench.measure(self.setup.choices(choice)),
                size,
                1 - size / self.setup.plan.original_bytes,
                total_bytes(self.units, choice) * 8 / self.weights,
            )
            done, least = len(self.trials), min(trial.damage for trial in self.trials.values())
            name = "kl" if self.setup.bench.outputs.classify else "damage"
            self.setup.bench.events.step("search", done, max(done, self._most), {name: least})
        return self.trials[key]


def _nearest(unit: Unit, centroids: int) -> int:
    """The largest of a unit's options up to ``centroids``, else its smallest."""
    fitting = [o.centroids for o in unit.options if o.centroids <= centroids]
    return fitting[-1] if fitting else unit.options[0].centroids
