"""The ready recipes fit the architectures they are for, and give the published reductions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from lloydmax import Recipe, plan

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_explains_itself_and_is_found_by_name(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.name == path.stem
    assert path.read_text().startswith("# ")
    assert Recipe.load(path.stem).data() == recipe.data()


@pytest.fixture(scope="module")
def vgg16() -> torch.nn.Module:
    with torch.device("meta"):
        shapes = torchvision.models.vgg16()
    # Rising values: the real shapes without the time of as many random numbers.
    return cheap(shapes)


@pytest.fixture(scope="module")
def resnet50() -> torch.nn.Module:
    with torch.device("meta"):
        shapes = torchvision.models.resnet50()
    return cheap(shapes)


def cheap(model: torch.nn.Module) -> torch.nn.Module:
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                torch.arange(tensor.numel(), out=tensor.view(-1), dtype=tensor.dtype)
            else:
                tensor.zero_()
    return model


def test_vgg16_gives_the_published_reduction(vgg16: torch.nn.Module) -> None:
    made = plan(vgg16, Recipe.load(RECIPES / "vgg16-ijcnn2020.yaml"))
    weights = [name for name in made.parameters if name.endswith("weight")]
    assert weights == ["classifier.0.weight", "classifier.3.weight"]
    assert [made.parameters[name].number for name in weights] == [14, 15]
    assert len(made.parameters) == 2 + 16
    assert f"{100 * made.code_reduction:.1f}" == "72.9"
    assert "classifier.6.weight" in made.trainable and "classifier.0.weight" not in made.trainable
    assert abs(made.reduction - made.code_reduction) < 1e-3


def test_resnet50_gives_the_published_reduction(resnet50: torch.nn.Module) -> None:
    recipe = Recipe.load(RECIPES / "resnet50-ijcnn2020.yaml")
    made = plan(resnet50, recipe)
    weights = [name for name in made.parameters if name.endswith("weight")]
    assert weights[0] == "layer2.0.conv3.weight" and weights[-1] == "layer4.2.conv3.weight" and len(weights) == 37
    assert not any("downsample" in name for name in weights)
    assert 0.594 <= made.code_reduction <= 0.596
    every = Recipe.load(
        recipe.data() | {"quantize": [{"layers": "1-50", "except": ["*.downsample.*"], "centroids": 4}]}
    )
    assert list(plan(resnet50, every).parameters)[-1] == "fc.weight"
