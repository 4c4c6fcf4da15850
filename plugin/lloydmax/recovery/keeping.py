"""A step of the recovery stays where it brings the outputs nearer to the original's, on inputs held out from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.hooks.events import Events
from lloydmax.hooks.protocols import Recovery, RecoveryStep
from lloydmax.network.parameters import weight_of
from lloydmax.network.private import own
from lloydmax.recovery.resume import load_student, student_state
from lloydmax.recovery.steps import NamedStep, settling, untrained
from lloydmax.student.attachment import attach_all, attached
from lloydmax.teacher.agreement import Agreement
from lloydmax.teacher.judge import Judge, Judged


class Settled:
    """What codebooks do to a model, after the steps that only settle it; and, where made inputs judge, which tell
    little of codebooks alone, after those that do not train.

    Args:
        judge: of the damage.
        recovery: what the steps work with.
        original: what the codebooks were fitted to; not changed.
        steps: after the fit.
    """

    def __init__(self, judge: Judge, recovery: Recovery, original: nn.Module, steps: Sequence[NamedStep]) -> None:
        self._judge, self._recovery, self._original = judge, recovery, original
        self._settling, self._untrained = settling(steps), untrained(steps) if judge.guesses else []

    def judged(self, found: Mapping[str, Codebook], priced: bool) -> Judged:
        """Of the model with these codebooks; steps that change codes do not run where not all bits have a price."""
        student = self._decoded(found)
        for step in self._settling:
            self._run(step, student)
        settled = done = self._judge.damage(student)
        if self._untrained and priced:
            student = own(self._original).eval().requires_grad_(False)
            attach_all(student, found)
            for step in self._untrained:
                self._run(step, student)
                now = self._judge.damage(student)
                done = now if now.mean < done.mean and self._judge.tells(now) else done
        return Judged(settled, done)

    def _decoded(self, found: Mapping[str, Codebook]) -> nn.Module:
        """A copy whose weights have the values of the codebooks: it takes no memory beside them."""
        student = own(self._original)
        with torch.no_grad():
            for name, codebook in found.items():
                weight = weight_of(student, name)
                for rows, part in codebook.parts():
                    (weight[rows] if weight.dim() else weight).copy_(part.dequantize())
        return student

    def _run(self, step: RecoveryStep, student: nn.Module) -> None:
        step.run(replace(self._recovery, student=student, original=self._original, events=Events()))


class Keeping:
    """Runs steps on one student, and undoes what did harm.

    Args:
        judge: of the student; ``None``: every step stays.
        original: what the codebooks were fitted to.

    Attributes:
        now: what the student, as it is, agrees with its teacher in, where that was measured on the inputs that judge.
    """

    def __init__(self, judge: Judge | None, original: nn.Module | None = None) -> None:
        self._judge, self._original = judge, original
        self.now: Agreement | None = None

    def run(
        self, student: nn.Module, step: Callable[[], dict[str, Any]], known: Agreement | None = None
    ) -> dict[str, Any]:
        """What a step measured, and beside it ``damage_before``, ``damage`` and ``kept``; only these where there is
        nothing to win back, so that it does not run.

        Args:
            student: that the step changes in place; as it was before where the step did harm.
            step: runs it.
            known: ``now``, if it is.
        """
        self.now = known
        if self._judge is None:
            self.now = None
            return step()
        first = self.now = self._judge.measured(student) if known is None else known
        before = self._judge.of(first)
        if before.nothing:
            return {"damage_before": before.mean, "damage": before.mean, "kept": False}
        starved = self._starved(student)
        state = copy.deepcopy(student_state(student))
        figures = step()
        self.now = self._judge.measured(student)
        after = self._judge.of(self.now)
        better = after.mean < before.mean and after.spares_all(before) and self._judge.tells(after)
        kept = better and self._starved(student) <= starved
        if not kept:
            load_student(student, state)
            self.now = first
        return figures | {"damage_before": before.mean, "damage": after.mean, "kept": kept}

    @torch.no_grad()
    def _starved(self, student: nn.Module) -> set[str]:
        """Names of the parameters to which zeros would be nearer than their codebooks are."""
        weights = {} if self._original is None else dict(self._original.named_parameters())
        found = set()
        for one in attached(student):
            original = weights.get(one.name)
            if original is not None and one.codebook().starves(original):
                found.add(one.name)
        return found
