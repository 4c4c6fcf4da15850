"""Which parameters the rules of a recipe mean."""

from __future__ import annotations

import pytest
import torch
from lloydmax import RecipeError, plan
from torch import nn


def chosen(model: nn.Module, *rules: dict, **more: object) -> list[str]:
    return list(plan(model, {"quantize": list(rules), **more}).parameters)


def test_all_means_convolutions_and_linear_layers(small_net: nn.Module) -> None:
    assert chosen(small_net, {"layers": "all"}) == [
        "stem.weight", "depthwise.weight", "padded.weight", "head.0.weight", "head.2.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ({"layers": "2-3"}, ["depthwise.weight", "padded.weight"]),
        ({"layers": 5}, ["head.2.weight"]),
        ({"layers": "1-2", "types": ["Linear"]}, ["head.0.weight", "head.2.weight"]),
        ({"layers": "1-2", "except": ["stem"]}, ["depthwise.weight", "padded.weight"]),
        ({"layers": ["stem", "head.*"]}, ["stem.weight", "head.0.weight", "head.2.weight"]),
        ({"layers": "*"}, ["stem.weight", "depthwise.weight", "padded.weight", "head.0.weight", "head.2.weight"]),
        ({"layers": "all", "types": ["BatchNorm2d"]}, ["bn1.weight", "bn2.weight"]),
        ({"layers": "bn1"}, ["bn1.weight"]),
        ({"layers": "all", "types": ["PaddedConv"]}, ["padded.weight"]),
        ({"layers": "all", "parameter": "bias"}, ["depthwise.bias", "padded.bias", "head.0.bias", "head.2.bias"]),
        ({"layers": "head.0", "parameter": "*"}, ["head.0.weight", "head.0.bias"]),
    ],
)  # fmt: skip
def test_selection(small_net: nn.Module, rule: dict, names: list[str]) -> None:
    assert chosen(small_net, rule) == names


def test_globs_leave_normalization_layers_alone(small_net: nn.Module) -> None:
    with pytest.raises(RecipeError, match="normalization"):
        chosen(small_net, {"layers": "bn?"})
    assert chosen(small_net, {"layers": "bn?", "types": ["BatchNorm2d"]}) == ["bn1.weight", "bn2.weight"]


def test_ranges_count_in_forward_order_when_inputs_are_given() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x))

    model = Backwards()
    recipe = {"quantize": [{"layers": 1, "centroids": 4}]}
    assert list(plan(model, recipe).parameters) == ["last.weight"]
    assert list(plan(model, recipe, example_inputs=torch.zeros(1, 4)).parameters) == ["first.weight"]


def test_the_last_matching_rule_wins(small_net: nn.Module) -> None:
    made = plan(small_net, {"quantize": [
        {"layers": "all", "centroids": 4},
        {"layers": "head.*", "centroids": 9},
        {"layers": "head.2", "quantizer": "none"},
    ]})  # fmt: skip
    assert {n: p.centroids for n, p in made.parameters.items()} == {
        "stem.weight": 4, "depthwise.weight": 4, "padded.weight": 4, "head.0.weight": 9,
    }  # fmt: skip


def test_a_rule_that_never_wins_is_told(small_net: nn.Module) -> None:
    with pytest.warns(UserWarning, match="taken by a later rule"):
        plan(small_net, {"quantize": [{"layers": "stem"}, {"layers": "all"}]})
