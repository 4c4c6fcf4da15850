"""Lists, choices and ranges in any field of a recipe, for tuning loops."""

from __future__ import annotations

from typing import Any

import jsonschema
import lloydmax
import pytest
from lloydmax import Recipe, RecipeError
from torch import nn

RECIPE = """\
bits: {low: 2, high: 3, step: 0.5}
trainable: {choices: [[all], [norms, biases]]}
storage: {codes: entropy, floats: [float16, float32]}
quantize:
  - {layers: all, centroids: {low: 4, high: 64, log: true}, importance: [fisher, null]}
recover:
  - step: [distill, align]
    loss: [kl, mse]
    lr: {low: 1.0e-4, high: 1.0e-2, log: true}
    steps: {low: 8, high: 20, step: 4}
"""


class Trial:
    """Takes the last value, as Optuna would be asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, values: list[Any]) -> Any:
        self.asked[name] = values
        return values[-1]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked[name] = (low, high, step, log)
        return high

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked[name] = (low, high, step, log)
        return high


def test_every_field_may_be_chosen() -> None:
    recipe, trial = Recipe.load(RECIPE), Trial()
    found = recipe.suggest(trial)
    assert found.choices() == {} and found.bits == 3 and found.trainable == ["norms", "biases"]
    assert found.quantize[0].importance is None and found.quantize[0].options["centroids"] == 64
    assert (found.storage.floats, found.recover[0].step, found.recover[0].options["steps"]) == ("float32", "align", 20)
    assert trial.asked["bits"] == (2, 3, 0.5, False) and trial.asked["quantize[1].centroids"] == (4, 64, 1, True)
    assert Recipe.load(recipe.data()).choices() == recipe.choices(), "a round trip keeps them"
    table = str(recipe.space())
    assert all(name in table for name in recipe.space().named()) and "0.0001 to 0.01, log" in table
    jsonschema.Draft202012Validator(Recipe.json_schema()).validate(
        Recipe.load(RECIPE.replace("[distill, align]", "distill")).data()
    )
    drawn = [*recipe.space().draw(20, seed=1)]
    assert drawn == [*recipe.space().draw(20, seed=1)] and len({str(one) for one in drawn}) == 20
    assert all(not recipe.resolved(one).choices() for one in drawn)


def test_a_grid_has_every_combination() -> None:
    recipe = Recipe.load(RECIPE)
    with pytest.raises(RecipeError, match="0.01, log is a choice|within"):
        recipe.resolved({"recover[1].lr": 1.0})
    fixed = recipe.resolved({"recover[1].lr": 1e-3, "recover[1].loss": "kl", "recover[1].step": "distill"})
    grid = [*fixed.space().grid()]
    assert len(grid) == 3 * 2 * 2 * 5 * 2 * 4 and len({str(one) for one in grid}) == len(grid)
    assert {one["quantize[1].centroids"] for one in grid} == {4, 8, 16, 32, 64}
    endless = Recipe.load(
        {"quantize": [{"layers": "all"}], "bits": {"low": 2, "high": 2.5}, "storage": {"codes": "entropy"}}
    )
    with pytest.raises(RecipeError, match="bits: a range without 'step' has no end"):
        endless.space().grid()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("bits: [2, many]", "bits: must be a valid number"),
        ("bits: {low: 2, high: 40}", "bits: must be less than or equal to 32, got 40"),
        ("bits: {low: 3, high: 2}", "bits: 'low' of a range must be less than 'high'"),
        ("bits: {low: 2, high: x}", "bits: 'high' of a range must be a number"),
        ("bits: {low: 2, high: null}", "bits: 'high' of a range must be a number"),
        ("trainable: {choices: [[all], 3]}", "trainable: must be a valid list"),
        ("seed: [1, -1]", "seed: must be greater than or equal to 0"),
        ("storage: {codes: [entropy, huff]}", "storage.codes: must be 'packed'"),
        ("recover: [{step: [distill, renormalise]}]", r"recover\[1\].step: no step is called 'renormalise'"),
        ("recover: [{step: [distill, renormalize], lr: 0.1}]", r"recover\[1\].lr: unknown key"),
        ("recover: [{step: distill, lr: {low: 0, high: 1}}]", r"recover\[1\].lr: must be greater than 0"),
        (
            "recover: [{step: distill, lr: {low: 1, high: 2, step: 0.1, log: true}}]",
            "'log' has a 'low' above 0, and no 'step'",
        ),
        ("recover: [{step: distill, align: {layer: x, weight: {low: -1, high: 1}}}]", r"recover\[1\].align.weight"),
        ("seed: [" + "1, " * 2000 + "1]", "2,000 choices are too many"),
    ],
)
def test_every_value_is_checked_when_the_recipe_is_read(line: str, told: str) -> None:
    text = "quantize: [{layers: all}]\n" + line + ("\nstorage: {codes: entropy}" if line.startswith("bits") else "")
    with pytest.raises(RecipeError, match=told) as caught:
        Recipe.load(text)
    assert str(caught.value).startswith("recipe:") and "\n" not in str(caught.value)


def test_what_is_not_chosen_yet_is_not_run() -> None:
    for line in ("bits: {low: 2, high: 3}", "seed: [1, 2]", "trainable: {choices: [[all], [norms]]}"):
        recipe = f"quantize: [{{layers: all, centroids: 4}}]\nstorage: {{codes: entropy}}\n{line}"
        with pytest.raises(RecipeError, match="is a choice for a tuning loop; write one value"):
            lloydmax.compress(nn.Linear(4, 4), recipe, progress=False)


def test_a_search_takes_a_range_of_centroids() -> None:
    from lloydmax.choosing.sweeping import _what_to_try

    recipe = Recipe.load({"quantize": [{"layers": "all", "centroids": {"low": 2, "high": 16, "log": True}}]})
    assert _what_to_try(recipe, [3])[0] == [[2, 4, 8, 16]]


def test_a_list_may_come_back_as_a_study_keeps_it() -> None:
    recipe = lloydmax.Recipe.load(
        "quantize: [{layers: all, centroids: 4}]\ntrainable: {choices: [[all], [codebooks, norms]]}\n"
    )
    assert recipe.resolved({"trainable": '["codebooks", "norms"]'}).trainable == ["codebooks", "norms"]
    with pytest.raises(lloydmax.RecipeError, match="trainable"):
        recipe.resolved({"trainable": '["biases"]'})
