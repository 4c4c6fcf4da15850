"""Greedy budget search: again and again the upgrade that saves the most damage for its bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pydantic
from lloydmax import hookimpl
from lloydmax.extend import Unit, smallest


class Greedy:
    """Starts with the fewest bytes; fast, near the optimum where no unit holds a large part of the weights."""

    class Options(pydantic.BaseModel):
        """The search method `greedy` has no options."""

        model_config = pydantic.ConfigDict(extra="forbid")

    def __init__(self, options: Options) -> None:
        self.options = options

    def choose(self, units: Sequence[Unit], budget: int) -> dict[str, int]:
        """Centroids of every unit within a budget of bytes.

        Raises:
            BudgetError: the fewest bytes are too many.
        """
        choice = smallest(units, budget)
        efficient = [unit.efficient() for unit in units]
        left = budget - sum(unit.options[0].bytes for unit in efficient)
        at = [0] * len(efficient)
        while True:
            best: tuple[float, int, int] | None = None
            for number, unit in enumerate(efficient):
                here = unit.options[at[number]]
                for target, option in enumerate(unit.options[at[number] + 1 :], start=at[number] + 1):
                    if option.bytes - here.bytes <= left:
                        rate = (here.damage - option.damage) / (option.bytes - here.bytes)
                        if best is None or rate > best[0]:
                            best = rate, number, target
            if best is None:
                return choice
            _, number, target = best
            unit = efficient[number]
            left -= unit.options[target].bytes - unit.options[at[number]].bytes
            at[number] = target
            choice[unit.name] = unit.options[target].centroids


@hookimpl
def lloydmax_search_methods() -> dict[str, type]:
    """The search method of this module."""
    return {"greedy": Greedy}
