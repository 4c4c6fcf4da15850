"""The recipe that is made for a model: what it holds for which model and data, and that it does the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax import RecipeError
from torch import Tensor, nn


def steps(recipe: lloydmax.Recipe) -> dict[str, dict[str, Any]]:
    """The recovery steps by name."""
    return {step.step: step.options for step in recipe.recover}


def test_pictures_and_classes(small_net: SmallNet, pictures: Tensor) -> None:
    recipe = lloydmax.recipe_for(small_net, 20, pictures)
    assert [rule.importance for rule in recipe.quantize] == ["fisher"] and recipe.bits == 20
    assert list(steps(recipe)) == ["reconstruct", "renormalize", "distill"] and steps(recipe)["renormalize"]["relative"]
    made = steps(recipe)["distill"]
    assert made["augment"] == ["resized_crop", "flip"] and made["codes"] == "learn" and "resize" not in made


def test_more_centroids_only_where_bits_are_many(small_net: SmallNet) -> None:
    found = {
        bits: {rule.centroids for rule in lloydmax.recipe_for(small_net, bits).quantize} for bits in (2, 7, 7.5, 12)
    }
    assert found == {2: {256}, 7: {256}, 7.5: {1024}, 12: {1024}}


def test_the_closer_the_centroids_the_slower_they_learn(small_net: SmallNet, pictures: Tensor) -> None:
    made = {bits: steps(lloydmax.recipe_for(small_net, bits, pictures))["distill"] for bits in (2, 4, 5, 8, 10, 32)}
    rates = {bits: step["codes_lr"] for bits, step in made.items()}
    assert rates == {2: 1e-3, 4: 1e-3, 5: 5e-4, 8: 1e-3 / 16, 10: 1e-3 / 64, 32: 1e-3 / 64}
    assert all(step["lr"] == step["codes_lr"] for step in made.values())


def test_few_inputs_choose_the_best_state_by_more_of_them(small_net: SmallNet, pictures: Tensor) -> None:
    many = pictures.repeat(4, 1, 1, 1)
    given = {count: steps(lloydmax.recipe_for(small_net, 2, many[:count]))["distill"] for count in (32, 96, 384)}
    assert [step.get("held_out") for step in given.values()] == [0.25, 0.167, None]


def test_many_centroids_are_trained_and_kept_in_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 10)), torch.randn(64, 64)
    result = lloydmax.compress(model, lloydmax.recipe_for(model, 9, data, effort=0.02), data)
    assert max(codebook.k for codebook in lloydmax.codebooks(result.model).values()) > 256
    result.save(tmp_path / "a.safetensors")
    loaded = lloydmax.load(tmp_path / "a.safetensors", model)
    assert torch.equal(loaded(data), result.model(data))


def test_text_models_get_rules_for_every_large_parameter() -> None:
    model = TextNet()
    tokens = torch.randint(0, 50, (16, 7))
    recipe = lloydmax.recipe_for(model, 12, tokens)
    planned = lloydmax.plan(model, recipe)
    small = [name for name, p in model.named_parameters() if name not in planned.parameters and p.dim() > 1]
    assert all(model.get_parameter(name).numel() < 1024 for name in small)
    assert {"lstm.weight_ih_l0", "lstm.weight_hh_l0"} <= set(planned.parameters)
    made = steps(recipe)["distill"]
    assert "augment" not in made and "renormalize" not in steps(recipe)


def test_embeddings_are_not_taken_for_classes() -> None:
    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 64)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.normalize(self.layer(x), dim=1)

    data = torch.randn(64, 32)
    assert steps(lloydmax.recipe_for(Embedding(), 8, data))["distill"]["loss"] == "cosine"
    values = nn.Sequential(nn.Linear(32, 64))
    assert steps(lloydmax.recipe_for(values, 8, data))["distill"]["loss"] == "auto"
    classes = nn.Sequential(nn.Linear(32, 64))
    with torch.no_grad():
        for held in classes.parameters():  # as cross-entropy leaves them
            held.copy_(20 * (held - held.mean(0)))
    assert steps(lloydmax.recipe_for(classes, 8, data))["distill"]["loss"] == "kl"


def test_without_data_inputs_are_made_and_nothing_is_trained(small_net: SmallNet) -> None:
    recipe = lloydmax.recipe_for(small_net, 20)
    assert recipe.data()["synthesize"] == {"kind": "matched", "samples": 64, "shape": [3, 32, 32]}
    assert list(steps(recipe)) == ["reconstruct", "renormalize"]
    assert {rule.importance for rule in recipe.quantize} == {"fisher"}
    as_given = lloydmax.recipe_for(small_net, 20, example_inputs=2 + torch.randn(4, 3, 12, 12))
    made = as_given.data()["synthesize"]
    assert made["shape"] == [3, 12, 12] and abs(made["mean"] - 2) < 0.3 and abs(made["deviation"] - 1) < 0.3
    quick = lloydmax.recipe_for(small_net, 20, torch.randn(8, 3, 12, 12), effort=0)
    assert list(steps(quick)) == ["reconstruct", "renormalize"] and quick.synthesize is None


def test_where_nothing_can_be_made_nothing_is_measured() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(40, 40)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.layer(x) * mask

    recipe = lloydmax.recipe_for(Odd(), 8)
    assert recipe.synthesize is None and {rule.importance for rule in recipe.quantize} == {None}
    report = lloydmax.compress(Odd(), recipe, progress=False).report
    assert any("no inputs" in note for note in report.notes)


def test_the_recipe_can_be_saved_and_read_again(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    recipe = lloydmax.recipe_for(small_net, 20, pictures)
    recipe.save(tmp_path / "a.yaml")
    assert lloydmax.Recipe.load(tmp_path / "a.yaml").data() == recipe.data()


@pytest.mark.parametrize("effort", [-1.0, float("nan"), float("inf")])
def test_a_wrong_effort_is_refused(small_net: SmallNet, effort: float) -> None:
    with pytest.raises(RecipeError, match="effort must be 0 or more"):
        lloydmax.recipe_for(small_net, 4, effort=effort)


@pytest.mark.parametrize("bits", [0, -1e5, float("nan"), float("inf")])
def test_wrong_bits_are_refused(small_net: SmallNet, pictures: Tensor, bits: float) -> None:
    with pytest.raises(RecipeError, match="bits must be a number above 0"):
        lloydmax.recipe_for(small_net, bits, pictures)


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing to compress"):
        lloydmax.recipe_for(nn.ReLU(), 4)


def test_vectors_are_made_without_examples_and_batch_norms() -> None:
    recipe = lloydmax.recipe_for(nn.Sequential(nn.Linear(16, 96), nn.ReLU(), nn.Linear(96, 8)), 4)
    assert recipe.data()["synthesize"] == {"samples": 64, "shape": [16]} and recipe.keep == "best"


def test_a_buffer_without_entries_is_left() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3))
    model.register_buffer("nothing", torch.zeros(0, 4))
    assert lloydmax.compress(model, lloydmax.recipe_for(model, 6), progress=False).model.nothing.shape == (0, 4)


def test_examples_that_do_not_fit_are_told(small_net: SmallNet) -> None:
    with pytest.warns(UserWarning, match="no inputs can be made from example_inputs: SmallNet does not run"):
        assert lloydmax.recipe_for(small_net, 12, example_inputs=torch.randn(2, 9)).synthesize is None
