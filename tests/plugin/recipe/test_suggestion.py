"""Lists in a recipe as parameters of a tuning loop."""

from __future__ import annotations

from typing import Any

import pytest
from lloydmax import Recipe, RecipeError

RECIPE = """\
name: tuned
quantize:
  - {layers: all, centroids: [2, 4, 16]}
  - {layers: ["head.*"], centroids: 8, granularity: [tensor, channel]}
recover:
  - {step: distill, epochs: 3, batch_size: 16, lr: [1.0e-3, 1.0e-2]}
"""
PLACES = ["quantize[1].centroids", "quantize[2].granularity", "recover[1].lr"]


class Fixed:
    """A trial that always takes the last value."""

    def __init__(self) -> None:
        self.asked: dict[str, list[Any]] = {}

    def suggest_categorical(self, name: str, values: list[Any]) -> Any:
        self.asked[name] = list(values)
        return values[-1]


def test_every_list_becomes_a_parameter() -> None:
    recipe, trial = Recipe.load(RECIPE), Fixed()
    resolved = recipe.suggest(trial)
    assert trial.asked == dict(zip(PLACES, [[2, 4, 16], ["tensor", "channel"], [1e-3, 1e-2]], strict=True))
    assert not resolved.choices() and resolved.quantize[0].options["centroids"] == 16
    assert resolved.recover[0].options["lr"] == 1e-2
    assert recipe.choices(), "the recipe itself is left alone"
    assert resolved.data() == recipe.resolved({where: values[-1] for where, values in recipe.choices().items()}).data()


def test_resolved_checks() -> None:
    recipe = Recipe.load(RECIPE)
    with pytest.raises(RecipeError, match=r"did you mean 'quantize\[1\].centroids'"):
        recipe.resolved({"quantize[1].centroid": 4})
    with pytest.raises(RecipeError, match=r"5 is not one of \[2, 4, 16\]"):
        recipe.resolved({"quantize[1].centroids": 5})
    part = recipe.resolved({"recover[1].lr": 1e-3})
    assert set(part.choices()) == {("quantize", 0, "centroids"), ("quantize", 1, "granularity")}
    with pytest.raises(RecipeError, match="nothing to tune"):
        Recipe.load({"quantize": [{"layers": "all"}]}).suggest(Fixed())


def test_values_that_optuna_cannot_hold_travel_as_json() -> None:
    recipe = Recipe.load({"quantize": [{"layers": "all"}], "recover": [{"step": "distill", "steps": [None, 5]}]})
    assert recipe.suggest(Fixed()).recover[0].options["steps"] == 5
