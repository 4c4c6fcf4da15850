"""Budget search by Lagrange multiplier, made exact by a dynamic programme over what the multiplier leaves open.

For a price of a byte, every unit chooses on its own (Everett 1963, "Generalized Lagrange multiplier method"; for bit
allocation Shoham and Gersho 1988). The best price gives a bound on what any choice within the budget can reach.
Options and partial sums that cannot come below the best choice known are dropped, and the few that are left are
enumerated unit by unit, keeping for each number of bytes only the least damage: the optimum of the additive model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pydantic
from lloydmax import hookimpl
from lloydmax.extend import Unit, smallest
from numpy.typing import NDArray

from lloydmax_strategies.greedy import Greedy

Floats = NDArray[np.float64]
_STEPS = 200


class Lagrangian:
    """The choice with the least damage within the budget, exactly.

    Attributes:
        proven: after :meth:`choose`: whether the limit of states was enough to prove the optimum.
    """

    class Options(pydantic.BaseModel):
        """Options of the search method `lagrangian`."""

        model_config = pydantic.ConfigDict(extra="forbid")

        # beyond so many, those with the best bounds are kept
        states: int = pydantic.Field(200_000, ge=1, description="partial sums that are kept at most")

    def __init__(self, options: Options) -> None:
        self.options = options
        self.proven = True

    def choose(self, units: Sequence[Unit], budget: int) -> dict[str, int]:
        """Centroids of every unit within a budget of bytes.

        Raises:
            BudgetError: the fewest bytes are too many.
        """
        smallest(units, budget)
        self.proven = True
        efficient = [unit.efficient() for unit in units]
        sizes = [np.array([o.bytes for o in unit.options], np.int64) for unit in efficient]
        harms = [np.array([o.damage for o in unit.options]) for unit in efficient]
        price, feasible = _best_price(sizes, harms, budget)
        known = [
            {unit.name: unit.options[n].centroids for unit, n in zip(efficient, feasible, strict=True)},
            Greedy(Greedy.Options()).choose(units, budget),
        ]

        def damage(choice: dict[str, int]) -> float:
            return sum(unit.option(choice[unit.name]).damage for unit in units)

        best = min(known, key=damage)
        found = self._enumerate(sizes, harms, budget, price, damage(best))
        if found is None:
            return best
        better = {unit.name: unit.options[n].centroids for unit, n in zip(efficient, found, strict=True)}
        return min(best, better, key=damage)

    def _enumerate(
        self, sizes: list[NDArray[np.int64]], harms: list[Floats], budget: int, price: float, known: float
    ) -> list[int] | None:
        """Indices of the options of the optimum, or ``None`` where nothing is below ``known``."""
        priced = [harm + price * size for size, harm in zip(sizes, harms, strict=True)]
        gap = known - (sum(float(p.min()) for p in priced) - price * budget)
        slack = gap + 1e-12 * (abs(known) + abs(price * budget))
        fewest = np.cumsum([int(size.min()) for size in sizes][::-1])[::-1].tolist() + [0]
        bytes_, excess, harm = np.zeros(1, np.int64), np.zeros(1), np.zeros(1)
        trail: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
        for number, (size, cost, value) in enumerate(zip(sizes, priced, harms, strict=True)):
            over = cost - cost.min()
            open_ = np.flatnonzero(over <= slack)
            grown = (bytes_[:, None] + size[open_]).ravel()
            paid = (excess[:, None] + over[open_]).ravel()
            total = (harm[:, None] + value[open_]).ravel()
            alive = np.flatnonzero((paid <= slack) & (grown + fewest[number + 1] <= budget))
            alive = alive[np.lexsort((total[alive], grown[alive]))]
            falling = np.minimum.accumulate(np.append(np.inf, total[alive]))[:-1]
            alive = alive[total[alive] < falling]
            if len(alive) > self.options.states:
                self.proven = False
                alive = np.sort(alive[np.argsort(paid[alive], kind="stable")[: self.options.states]])
            if not len(alive):
                return None
            trail.append((alive // len(open_), open_[alive % len(open_)]))
            bytes_, excess, harm = grown[alive], paid[alive], total[alive]
        state = int(np.argmin(harm))
        picked: list[int] = []
        for before, option in reversed(trail):
            picked.append(int(option[state]))
            state = int(before[state])
        return picked[::-1]


def _best_price(sizes: list[NDArray[np.int64]], harms: list[Floats], budget: int) -> tuple[float, list[int]]:
    """The price of a byte that gives the highest lower bound, and the choice of the lowest price that keeps it."""

    def chosen(price: float) -> tuple[int, list[int]]:
        picked = [int(np.argmin(harm + price * size)) for size, harm in zip(sizes, harms, strict=True)]
        return sum(int(size[n]) for size, n in zip(sizes, picked, strict=True)), picked

    used, picked = chosen(0.0)
    if used <= budget:
        return 0.0, picked
    steepest = [
        np.abs(np.diff(harm) / np.diff(size)).max() for size, harm in zip(sizes, harms, strict=True) if len(size) > 1
    ]
    low, high = 0.0, 2 * float(max(steepest, default=0.0)) + 1e-300
    picked = chosen(high)[1]
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        used, found = chosen(middle)
        if used <= budget:
            high, picked = middle, found
        else:
            low = middle
    return high, picked


@hookimpl
def lloydmax_search_methods() -> dict[str, type]:
    """The search method of this module."""
    return {"lagrangian": Lagrangian}
