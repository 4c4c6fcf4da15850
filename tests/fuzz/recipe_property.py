"""What every recipe must do to whoever reads it, well meant or not."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import lloydmax
from lloydmax import LloydmaxError, Recipe, RecipeError
from timing import seconds_of
from torch import nn

SECONDS = 1.0
"""Of the CPU, to read or to refuse any recipe of 1 MiB."""


@dataclass
class Outcome:
    """What came of one recipe.

    Attributes:
        accepted: whether it was read.
        refused: the first line of the reason, of the reading or of the plan.
        problems: what must not be.
        without_line: messages of a text or file that do not say the line.
        seconds: of the CPU, that the reading took.
    """

    accepted: bool = False
    refused: str = ""
    problems: list[str] = field(default_factory=list)
    without_line: int = 0
    seconds: float = 0.0


@cache
def network() -> nn.Module:
    """Something of everything that rules name, and small."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4),
    ).eval()  # fmt: skip


def read(source: str | Path | dict[str, Any], scratch: Path) -> Outcome:
    """Read a recipe, plan with it, and tell what is wrong with how that goes.

    Args:
        source: of the recipe.
        scratch: a folder to write to.
    """
    outcome, found = Outcome(), list[Recipe | Exception]()

    def load() -> None:
        found.clear()
        try:
            found.append(Recipe.load(source))
        except Exception as error:
            found.append(error)

    outcome.seconds, recipe = seconds_of(load, SECONDS), found[0]
    if outcome.seconds > SECONDS:
        outcome.problems.append(f"load: takes {outcome.seconds:.1f} s")
    if isinstance(recipe, RecipeError):
        _look_at(recipe, source, outcome)
        return outcome
    if isinstance(recipe, Exception):
        outcome.problems.append(f"load: {type(recipe).__name__}: {recipe}"[:300])
        return outcome
    outcome.accepted = True
    _keep(recipe, scratch, outcome)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            str(lloydmax.plan(network(), recipe))
    except LloydmaxError as error:
        _look_at(error, source, outcome)
    except Exception as error:
        outcome.problems.append(f"plan: {type(error).__name__}: {error}"[:300])
    return outcome


def _keep(recipe: Recipe, scratch: Path, outcome: Outcome) -> None:
    """It goes through JSON, and through a file."""
    try:
        same = [Recipe.load(json.loads(json.dumps(recipe.data(), allow_nan=False)))]
        recipe.save(scratch / "kept.yaml")
        same.append(Recipe.load(scratch / "kept.yaml"))
    except Exception as error:
        outcome.problems.append(f"data: {type(error).__name__}: {error}"[:300])
        return
    if any(other.data() != recipe.data() for other in same):
        outcome.problems.append("data: other after a round trip")


def _look_at(error: LloydmaxError, source: str | Path | dict[str, Any], outcome: Outcome) -> None:
    lines = str(error).split("\n")
    outcome.refused = lines[0]
    if not all(line.isprintable() and 0 < len(line) < 1500 for line in lines) or len(lines) > 21:
        outcome.problems.append(f"says {str(error)!r}"[:300])
    origin = re.escape(source.name if isinstance(source, Path) else "recipe")
    for line in lines:
        placed = re.search(rf"{origin}{'' if isinstance(source, dict) else r':[1-9][0-9]*'}: \S", line)
        whole = isinstance(source, Path) and line.endswith("not a text file in UTF-8")
        if placed is None and not whole:
            outcome.without_line += 1
            outcome.problems.append(f"without a place: {line!r}"[:300])


def kind(reason: str) -> str:
    """A reason without what is particular to one recipe."""
    plain = re.sub(r"^\S*(:\d+)?: \S+:|'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)", "_", reason)
    return re.sub(r"\d+", "9", plain)[:70]
