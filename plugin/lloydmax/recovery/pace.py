"""How many of its steps a training loop has time for."""

from __future__ import annotations

import torch

from lloydmax.hooks.time_limit import TimeLimit
from lloydmax.runtime import processes


class Pace:
    """The steps of a loop, of which as many are taken as there is time for: a schedule that looks at their number ends
    where the time does.

    Args:
        limit: of the run.
        asked: steps, if there is time.
        together: whether processes take each step together, and have to agree.
        device: where they talk.
    """

    def __init__(self, limit: TimeLimit, asked: int, together: bool, device: torch.device) -> None:
        self.asked = asked
        self._limit, self._together, self._device = limit, together, device
        self._begun: tuple[int, float] | None = None
        self._measure = 0.0

    def total(self, done: int) -> int:
        """Steps altogether, where so many are done; asked after each of them."""
        if not self._limit.given:
            return self.asked
        left, now = self._limit.left - self._measure, self._limit.passed
        if self._together:
            told = processes.every(torch.tensor([left, now], dtype=torch.float64, device=self._device))
            left, now = torch.stack(told).mean(0).tolist()
        if self._begun is None:
            self._begun = done, now
            return self.asked if left > 0 else done
        before, began = self._begun
        each = max(now - began, 1e-9) / max(1, done - before)
        return min(self.asked, done + max(0, int(left / each)))

    def measured(self, seconds: float) -> None:
        """What it takes to see how good a state is, which the last step is followed by."""
        self._measure = max(self._measure, seconds)

    @property
    def passed(self) -> float:
        """Seconds since the run began."""
        return self._limit.passed

    def cut(self, done: int, total: int) -> str | None:
        """What there was no time for, in words; ``None``: all was done, or ended for another reason."""
        return f"{done:,} of {self.asked:,} steps" if total < self.asked and done >= total else None
