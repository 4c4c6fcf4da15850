"""The space of a recipe that a tuning loop searches: lists, choices and ranges that stand in place of one value."""

from __future__ import annotations

import copy
import itertools
import math
import numbers
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lloydmax.errors import RecipeError
from lloydmax.hooks.options import Refused
from lloydmax.recipe.lines import LinedData, Where, field_name
from lloydmax.runtime.text import new_table, render

CHOICES = "choices"
_WORDS = {"low", "high", "step", "log"}
_MOST = 1000
"""Values of a range that are listed."""
_MOST_TRIED = 500_000
"""Values times lines of a recipe that are checked when it is read."""
_NEAR = 1e-6
"""Of a step, by which a value may be off it."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Attributes:
        step: between neighbours; ``None``: 1 between whole numbers, else every number counts.
        log: drawn by their logarithm.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Range:
        """What a recipe has as ``{low, high, step, log}``.

        Raises:
            ValueError: it is not one, with the reason.
        """
        found: dict[str, Any] = {key: given[key] for key in _WORDS - {"log"} if given.get(key) is not None}
        if bad := [
            key for key, value in found.items() if isinstance(value, bool) or not isinstance(value, int | float)
        ]:
            raise ValueError(f"'{bad[0]}' of a range must be a number")
        if not isinstance(log := given.get("log", False), bool):
            raise ValueError("'log' of a range must be true or false")
        if missing := {"low", "high"} - found.keys():
            raise ValueError(f"{min(missing)!r} of a range must be a number")
        made = cls(log=log, **found)
        if not made.low < made.high:
            raise ValueError(f"'low' of a range must be less than 'high', not {made.low:g} and {made.high:g}")
        if log and (made.low <= 0 or made.step is not None):
            raise ValueError("a range with 'log' has a 'low' above 0, and no 'step'")
        if made.step is not None and not 0 < made.step <= made.high - made.low:
            raise ValueError(f"'step' of a range must be between 0 and {made.high - made.low:g}, not {made.step:g}")
        return made

    @property
    def whole(self) -> bool:
        """Whether it is of whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step) if value is not None)

    def values(self) -> list[Any]:
        """All numbers; of ``log`` the powers of two times ``low``.

        Raises:
            ValueError: there is no end of them.
        """
        if self.log:
            count = math.floor(math.log2(self.high / self.low) + _NEAR) + 1
            return [self.low * 2**number for number in range(count)]
        step = self.step or (1 if self.whole else None)
        if step is None:
            raise ValueError("a range without 'step' has no end of values: write 'step', or a list")
        count = math.floor((self.high - self.low) / step + _NEAR) + 1
        if count > _MOST:
            raise ValueError(
                f"a range of {count:,} values, at most {_MOST:,} are tried one by one: write a larger 'step'"
            )
        return [self.low + number * step for number in range(count)]

    def draw(self, generator: random.Random) -> Any:
        """One of them at random."""
        if self.log:
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
            return min(max(round(value), self.low), self.high) if self.whole else value
        if self.step is None and not self.whole:
            return generator.uniform(self.low, self.high)
        step = self.step or 1
        return self.low + step * generator.randint(0, math.floor((self.high - self.low) / step + _NEAR))

    def __contains__(self, value: Any) -> bool:
        kind: Any = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < _NEAR

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step:g}"
        return f"{self.low:g} to {self.high:g}{step}{', log' * self.log}"

    def data(self) -> dict[str, Any]:
        """As a recipe has it."""
        more = {"step": self.step} if self.step is not None else {}
        return {"low": self.low, "high": self.high, **more, **({"log": True} if self.log else {})}


Values = list[Any] | Range
"""What a tuning loop chooses from."""


class Space(dict[Where, Values]):
    """Place in a recipe -> what a tuning loop chooses from there; prints as a table."""

    def named(self) -> dict[str, Values]:
        """The same by name, such as ``"quantize[1].centroids"``."""
        return {field_name(where): values for where, values in self.items()}

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination, by name, for :meth:`lloydmax.Recipe.resolved`.

        Raises:
            RecipeError: a range has no end of values.
        """
        named = self.named()
        every = [listed(name, values) for name, values in named.items()]
        return (dict(zip(named, one, strict=True)) for one in itertools.product(*every))

    def draw(self, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
        """So many combinations at random, by name."""
        generator = random.Random(seed)
        for _ in range(count):
            yield {
                name: values.draw(generator) if isinstance(values, Range) else generator.choice(values)
                for name, values in self.named().items()
            }

    def __str__(self) -> str:
        table = new_table(title="what a tuning loop chooses")
        for column in ("field", "from"):
            table.add_column(column, overflow="fold")
        for name, values in self.named().items():
            table.add_row(name, str(values) if isinstance(values, Range) else ", ".join(map(str, values)))
        return render(table)


def listed(name: str, values: Values) -> list[Any]:
    """All values.

    Raises:
        RecipeError: a range has no end of them.
    """
    try:
        return values.values() if isinstance(values, Range) else values
    except ValueError as error:
        raise RecipeError(f"{name}: {error}") from None


def is_choice(value: Any, field: FieldInfo) -> bool:
    """Whether a list stands where a field takes a single value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return isinstance(value, list) and not any((get_origin(kind) or kind) in (list, tuple) for kind in kinds)


def taken_apart(data: Any, model: type[BaseModel], sections: Mapping[str, type[BaseModel]]) -> tuple[Any, Space]:
    """Data of a recipe with the first value in place of every choice and range, and these.

    Lists that are options of a strategy stay: they are told by its options.

    Args:
        data: as it was written; not changed.
        model: of the whole recipe.
        sections: the models of its parts.

    Raises:
        Refused: a range that is not one.
    """
    found = Space()
    if not isinstance(data, dict):
        return data, found

    def fields(where: Where) -> Mapping[str, Any]:
        if not where:
            one: type[BaseModel] | None = model
        elif len(where) == 1 or (len(where) == 2 and isinstance(where[1], int)):
            one = sections.get(str(where[0]))
        else:
            one = None
        known = {} if one is None else one.model_fields
        return {field.alias or name: field for name, field in known.items()}

    def walked(value: Any, where: Where) -> Any:
        if where[:1] in (("search",), ("version",), ("requires",)):
            return value
        if isinstance(value, dict) and set(value) == {CHOICES} and isinstance(value[CHOICES], list) and value[CHOICES]:
            found[where] = value[CHOICES]
            return value[CHOICES][0]
        if isinstance(value, dict) and {"low", "high"} <= set(value) <= _WORDS:
            try:
                found[where] = made = Range.of(value)
            except ValueError as error:
                raise Refused([(where, str(error))]) from None
            return made.low
        if isinstance(value, dict):
            known = fields(where)
            made_of = {}
            for key, inner in value.items():
                if key in known and is_choice(inner, known[key]) and inner:
                    found[(*where, key)] = inner
                    made_of[key] = inner[0]
                else:
                    made_of[key] = walked(inner, (*where, key))
            return made_of
        if isinstance(value, list):
            return [walked(inner, (*where, number)) for number, inner in enumerate(value)]
        return value

    return walked(data, ()), found


def attempts(data: Any, space: Space, document: LinedData) -> Iterator[LinedData]:
    """The data with each choice tried by each of its other values, and each range by its end; not their product.

    Raises:
        RecipeError: there are too many to try them all.
    """
    tried = sum(1 if isinstance(values, Range) else len(values) - 1 for values in space.values())
    if tried * len(document.lines or space) > _MOST_TRIED or tried > _MOST:
        raise RecipeError(f"{document.at(())}: {tried:,} choices are too many for one recipe: shorten the lists")
    for where, values in space.items():
        for number, value in enumerate([values.high] if isinstance(values, Range) else values[1:], start=1):
            lines = document.lines
            if not isinstance(values, Range):
                inner = (*where, number) if (*where, number) in lines else (*where, CHOICES, number)
                lines = lines | {where: lines[inner]} if inner in lines else lines
            yield LinedData(put(data, where, value), document.origin, lines)


def written(values: Values) -> Any:
    """As a recipe has it, wherever it stands."""
    return values.data() if isinstance(values, Range) else {CHOICES: values}


def put(data: Any, where: Where, value: Any) -> Any:
    """A copy of data with another value at a place."""
    made = copy.copy(data)
    made[where[0]] = value if len(where) == 1 else put(made[where[0]], where[1:], value)
    return made
