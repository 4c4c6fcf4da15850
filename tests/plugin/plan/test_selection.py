"""Which parameters the rules of a recipe mean."""

from __future__ import annotations

import pytest
import torch
from foreign_layers import Conv1D, InBuffers
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


class Mixed(nn.Module):
    """Layers of a known layout that ranges do not count, between some that they count."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gpt, self.both = nn.Linear(8, 12), Conv1D(12, 8), nn.Bilinear(8, 8, 8)
        self.attention, self.last = nn.MultiheadAttention(8, 2), nn.Linear(8, 4)


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (
            {"layers": "all"},
            ["first.weight", "gpt.weight", "both.weight", "attention.in_proj_weight", "attention.out_proj.weight",
             "last.weight"],
        ),
        ({"layers": "2-3"}, ["attention.out_proj.weight", "last.weight"]),
        ({"layers": "all", "parameter": "bias"}, ["first.bias", "gpt.bias", "both.bias", "attention.out_proj.bias",
                                                  "last.bias"]),
        ({"layers": "attention"}, ["attention.in_proj_weight"]),
        ({"layers": "all", "types": ["Conv1D"]}, ["gpt.weight"]),
        ({"layers": "all", "except": ["gpt", "attention*"]}, ["first.weight", "both.weight", "last.weight"]),
    ],
)  # fmt: skip
def test_all_means_every_weight_of_a_known_layout(rule: dict, names: list[str]) -> None:
    assert chosen(Mixed(), rule) == names


def test_channels_of_a_transposed_weight_are_its_columns() -> None:
    made = plan(Mixed(), {"quantize": [{"layers": "all", "centroids": 4, "granularity": "channel"}]}).parameters
    assert {name: p.axis for name, p in made.items() if p.axis} == {"gpt.weight": 1}
    assert made["gpt.weight"].layout.codebooks == 8 and made["first.weight"].layout.codebooks == 12
    assert [p.number for p in made.values()] == [1, None, None, None, 2, 3]


def test_large_buffers_are_weights() -> None:
    model = InBuffers()
    assert chosen(model, {"layers": "all"}) == ["out", "conv.weight", "inner.w"]
    assert chosen(model, {"layers": "*", "parameter": "*"}) == ["out", "conv.weight", "conv.bias", "inner.w"]
    assert chosen(model, {"layers": "all", "except": ["inner", ""]}) == ["conv.weight"]
    assert chosen(model, {"layers": "inner", "parameter": "again"}) == ["inner.w"]
    assert {"out", "inner.w", "inner.again"} <= set(dict(model.named_buffers(remove_duplicate=False)))
    weight = model.conv.weight.detach()
    del model.conv.weight
    model.conv.register_buffer("weight", weight)
    assert chosen(model, {"layers": "all", "parameter": "weight", "except": ["inner", ""]}) == ["conv.weight"]


def test_a_small_buffer_is_meant_by_its_exact_name() -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    model.register_buffer("small", torch.randn(4, 4))
    assert chosen(model, {"layers": "*", "parameter": "*"}) == ["0.weight", "0.bias"]
    assert chosen(model, {"layers": "", "parameter": "small"}) == ["small"]


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
