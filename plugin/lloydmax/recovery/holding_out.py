"""Which inputs a run works with, and which it is judged by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from lloydmax.data import Source
from lloydmax.hooks.events import Events
from lloydmax.recipe.recipe import Recipe
from lloydmax.recovery.made import beside_few
from lloydmax.runtime.cache import Cache
from lloydmax.teacher.judge import MOST_JUDGED, held_out

AGREEMENT_SAMPLES = 1000
"""Inputs on which every stage is measured at most: a share of them is within 1.6 points (one standard deviation)."""


@dataclass(frozen=True)
class Held:
    """The inputs of a run.

    Attributes:
        source: to work with.
        near: of the original domain, to work with.
        unseen: that the agreement is measured on.
        seen: whether steps have these, too.
    """

    source: Source | None
    near: Source | None
    unseen: Source | None
    seen: bool = False

    def apart(
        self,
        teacher: nn.Module,
        recipe: Recipe,
        given: bool,
        learns: bool,
        seed: int,
        cache: Cache | None,
        events: Events,
    ) -> Held:
        """Keep inputs apart that nothing learns from, to measure the agreement on: of the original domain if any are
        known, else of the data that were given."""
        divided = partial(held_out, seed=seed, cache=cache)
        source, near, unseen = self.source, self.near, self.unseen
        if near is not None and learns:
            near, unseen = divided(near, AGREEMENT_SAMPLES, few=False)
        elif near is None and source is not None and given:
            if recipe.keep == "best":
                parts = divided(source, MOST_JUDGED, few=True)
                source, unseen = beside_few(teacher, parts, seed, events)
            elif learns:
                source, unseen = divided(source, AGREEMENT_SAMPLES, few=False)
        seen = learns and unseen is not None and (unseen is source or unseen is near)
        return replace(self, source=source, near=near, unseen=unseen, seen=seen)
