"""How long a run may take, and where it had to be cut."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lloydmax.errors import RecipeError
from lloydmax.hooks.hookspecs import hookimpl
from lloydmax.runtime import processes
from lloydmax.runtime.amounts import seconds

_LATE = 1.1
"""Times the limit that are told."""


class TimeUp(BaseException):
    """Ends a recovery step whose time is up, between two of its units."""


class TimeLimit:
    """The end of a run, for those who can do less: an event listener, too.

    Args:
        seconds: from now on; infinite: no limit.
        clock: tells seconds.

    Attributes:
        reserve: seconds that what comes after the part which is running will take.
        cuts: what was cut, and how, in words.
    """

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.reserve, self.cuts = seconds, 0.0, dict[str, str]()
        self._clock, self._started, self._ends = clock, clock(), False

    @classmethod
    def of(cls, given: Any) -> TimeLimit:
        """What somebody gave: a limit that runs already, seconds, a text such as ``10m``, or ``None``: none.

        Raises:
            RecipeError: it is something else.
        """
        if isinstance(given, TimeLimit):
            return given
        return cls() if given is None else cls(seconds("max_time", given, RecipeError))

    @property
    def given(self) -> bool:
        """Whether there is a limit."""
        return math.isfinite(self.seconds)

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def left(self) -> float:
        """Seconds for the part that is running; infinite without a limit."""
        return self.seconds - self.reserve - self.passed if self.given else math.inf

    def share(self, share: float, part: str) -> Callable[[str], bool]:
        """Asks whether such a share of the time that is left now is over; what ``part`` ends there, and how it was cut,
        is noted. Several processes do the same, so that none of them ends before the others."""
        limited = self.given and processes.size() == 1
        end = self.passed + share * max(self.left, 0.0) if limited else math.inf

        def over(cut: str) -> bool:
            if ends := limited and self.passed >= end:
                self.cuts[part] = cut
            return ends

        return over

    def notes(self, steps: Iterable[Mapping[str, Any]]) -> list[str]:
        """What there was no time for, in words.

        Args:
            steps: what recovery steps told; ``cut``: how one was.
        """
        cuts = self.cuts | {said["step"]: said["cut"] for said in steps if "cut" in said}
        found = [f"cut by max_time: {part}: {cut}" for part, cut in cuts.items()]
        if self.given and self.passed > _LATE * self.seconds:
            found.append(
                f"max_time: it took {self.passed:.0f} s, not {self.seconds:.0f}: the codebooks have to be fitted, and "
                "the model to be finished, in any case"
            )
        return found

    @contextmanager
    def ending(self, ends: bool = True) -> Iterator[None]:
        """What runs inside is ended by :class:`TimeUp` at its first sign of progress after its time, or is not."""
        before, self._ends = self._ends, ends and self.given and processes.size() == 1
        try:
            yield
        finally:
            self._ends = before

    @hookimpl
    def lloydmax_step(self) -> None:
        """End the step that tells this, if its time is up."""
        if self._ends and self.left <= 0:
            raise TimeUp
