"""A step of the recovery stays where it brings the outputs nearer to the original's, on inputs held out from it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from lloydmax.recovery.resume import load_student, student_state
from lloydmax.teacher.judge import Damage, Judge


class Keeping:
    """Runs steps on one student, and undoes what did harm.

    Args:
        judge: of the student; ``None``: every step stays.
    """

    def __init__(self, judge: Judge | None) -> None:
        self._judge = judge
        self._now: tuple[nn.Module, Damage] | None = None

    def run(self, student: nn.Module, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a step measured, and beside it ``damage_before``, ``damage`` and ``kept``.

        Args:
            student: that the step changes in place; as it was before where the step did harm.
            step: runs it.
        """
        if self._judge is None:
            return step()
        known = self._now is not None and self._now[0] is student
        before = self._now[1] if known and self._now else self._judge.damage(student)
        state = copy.deepcopy(student_state(student))
        figures = step()
        after = self._judge.damage(student)
        kept = after.mean < before.mean and after.spares_all(before)
        if not kept:
            load_student(student, state)
        self._now = student, after if kept else before
        return figures | {"damage_before": before.mean, "damage": after.mean, "kept": kept}
