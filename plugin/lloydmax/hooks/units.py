"""The problem of a budget search as plain data: units, their options, what each costs and how much it harms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lloydmax.errors import LloydmaxError


class BudgetError(LloydmaxError, ValueError):
    """A budget that no choice of centroids keeps. The message says how far it can go."""


@dataclass(frozen=True)
class Option:
    """One number of centroids for a unit.

    Attributes:
        centroids: of one codebook.
        bytes: codes and codebooks of all parameters of the unit, as stored.
        damage: predicted, additive over the units; what it is in does not matter to a search method. It may be
            negative where it is counted from a compressed model.
    """

    centroids: int
    bytes: int
    damage: float


@dataclass(frozen=True)
class Unit:
    """What gets one number of centroids: a parameter, or all parameters of a rule.

    Attributes:
        name: unique.
        parameters: full names.
        weights: number of weights in all of them.
        options: at least one, in ascending order of centroids.
    """

    name: str
    parameters: tuple[str, ...]
    weights: int
    options: tuple[Option, ...]

    def option(self, centroids: int) -> Option:
        """The option with this number of centroids.

        Raises:
            KeyError: there is none.
        """
        for option in self.options:
            if option.centroids == centroids:
                return option
        raise KeyError(centroids)

    def efficient(self) -> Unit:
        """The same unit without options that another one beats in both bytes and damage, ascending in bytes."""
        kept: list[Option] = []
        for option in sorted(self.options, key=lambda o: (o.bytes, o.damage, o.centroids)):
            if not kept or option.damage < kept[-1].damage:
                kept.append(option)
        return replace(self, options=tuple(kept))


Choice = Mapping[str, int]
"""Name of a unit -> centroids."""


def total_bytes(units: Iterable[Unit], choice: Choice) -> int:
    """Bytes of all codes and codebooks."""
    return sum(unit.option(choice[unit.name]).bytes for unit in units)


def total_damage(units: Iterable[Unit], choice: Choice) -> float:
    """Predicted damage of the additive model."""
    return sum(unit.option(choice[unit.name]).damage for unit in units)


def smallest(units: Sequence[Unit], budget: int) -> dict[str, int]:
    """The choice with the fewest bytes (of several, the one with the least damage), where every method can start.

    Raises:
        BudgetError: even that has more bytes than the budget.
    """
    least = {u.name: min(u.options, key=lambda o: (o.bytes, o.damage, o.centroids)).centroids for u in units}
    if (needed := total_bytes(units, least)) > budget:
        raise BudgetError(
            f"the budget leaves {budget:,} bytes for codes and codebooks; with the fewest centroids "
            f"allowed they take {needed:,}: raise the budget or allow fewer centroids"
        )
    return least
