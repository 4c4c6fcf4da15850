"""Plans: what happens to every parameter, what is refused, and the size that is predicted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lloydmax import DataError, PlanMismatchError, RecipeError, codebooks, compress, plan, verify_plan
from lloydmax.fitting.codebook import fit_codebook
from lloydmax.student.attachment import attach
from torch import nn


def test_tied_weights_are_planned_once(text_net: nn.Module) -> None:
    made = plan(text_net, {"quantize": [{"layers": "out", "centroids": 8}]})
    (parameter,) = made.parameters.values()
    assert {parameter.name, *parameter.tied} == {"embed.weight", "out.weight"}


def test_transposed_convolutions_have_their_channels_on_axis_one() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 6, 2))
    (parameter,) = plan(
        model, {"quantize": [{"layers": 1, "granularity": "channel", "centroids": 4}]}
    ).parameters.values()
    assert parameter.axis == 1 and parameter.layout.codebooks == 6


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"quantize": [{"layers": "sten"}]}, "did you mean 'stem'"),
        ({"quantize": [{"layers": "1-9"}]}, "numbered 1-5"),
        ({"quantize": [{"layers": "0-1"}]}, "do not exist"),
        ({"quantize": [{"layers": "all", "types": ["Conv3d"]}]}, "did you mean 'Conv2d'"),
        ({"quantize": [{"layers": "all", "except": ["nothing.*"]}]}, "matches no layer"),
        ({"quantize": [{"layers": "stem", "parameter": "bias"}]}, "has a parameter 'bias'"),
        ({"quantize": [{"layers": "stem", "centroids": [2, 4]}]}, "choice for a tuning loop"),
        ({"quantize": [{"layers": "stem"}], "trainable": ["stem"]}, "is compressed by"),
        ({"quantize": [{"layers": "stem"}], "trainable": ["hed"]}, "did you mean 'head'"),
        ({"quantize": [{"layers": "all", "types": ["Conv2d", "Linear", "BatchNorm2d"], "parameter": "bias",
                        "centroids": 1}], "trainable": ["biases"]}, "every bias has a codebook"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_refused(small_net: nn.Module, recipe: dict, expected: str) -> None:
    with pytest.raises(RecipeError) as error:
        plan(small_net, recipe)
    assert expected in str(error.value), str(error.value)


def test_the_number_of_distinct_values_bounds_the_centroids() -> None:
    model = nn.Sequential(nn.Linear(300, 300))
    with torch.no_grad():
        model[0].weight.copy_((torch.arange(90_000).view(300, 300) % 5).float())
    (parameter,) = plan(model, {"quantize": [{"layers": "all", "centroids": 16}]}).parameters.values()
    assert parameter.centroids == 5


def test_a_plan_prints_as_a_table(small_net: nn.Module) -> None:
    text = str(plan(small_net, {"name": "mine", "quantize": [{"layers": "all", "centroids": 7}]}))
    assert "mine" in text and "head.0.weight" in text and "7" in text and "smaller" in text


def test_verify_plan_finds_what_is_missing_different_or_extra(small_net: nn.Module) -> None:
    made = plan(small_net, {"quantize": [{"layers": "head.*", "centroids": 4}]})
    with pytest.raises(PlanMismatchError, match="head.0.weight is not compressed"):
        verify_plan(made, small_net)
    for name in ("head.0", "head.2"):
        attach(small_net, f"{name}.weight", fit_codebook(small_net.get_parameter(f"{name}.weight"), 4))
    verify_plan(made, small_net)
    attach(small_net, "stem.weight", fit_codebook(small_net.stem.weight, 4))
    with pytest.raises(PlanMismatchError, match=r"stem\.weight is compressed, which was not planned"):
        verify_plan(made, small_net)
    assert set(codebooks(small_net)) == {"head.0.weight", "head.2.weight", "stem.weight"}


def test_a_model_that_is_already_compressed_is_refused(small_net: nn.Module) -> None:
    attach(small_net, "stem.weight", fit_codebook(small_net.stem.weight, 4))
    with pytest.raises(RecipeError, match="already holds codebooks"):
        plan(small_net, {"quantize": [{"layers": "head.*"}]})


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing to compress"):
        plan(nn.ReLU(), {"quantize": [{"layers": "all"}]})


@pytest.mark.parametrize("storage", [{}, {"floats": "float16"}, {"codes": "entropy"}])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:3"])
@pytest.mark.parametrize("centroids", [1, 4, 5, 200, 300])
def test_predicted_bytes_are_the_bytes_of_the_file(
    tmp_path: Path, storage: dict, granularity: str, centroids: int
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.ConvTranspose2d(64, 32, 3), nn.Linear(64, 64))
    rule = {"layers": "all", "centroids": centroids, "granularity": granularity}
    result = compress(model, {"quantize": [rule], "storage": storage}, progress=False)
    size = result.save(tmp_path / "model.safetensors")
    assert abs(result.plan.predicted_bytes - size) <= 0.01 * size


def test_the_shares_that_are_saved() -> None:
    model = nn.Sequential(nn.Linear(64, 50, bias=False), nn.Linear(50, 10))
    made = plan(model, {"quantize": [{"layers": "0", "centroids": 16}]})
    assert made.total_weights == 3710 and made.reduction == 1 - made.predicted_bytes / made.original_bytes
    assert made.code_reduction == 1 - (3200 / 2 + 4 * 16 + 4 * 510) / (4 * 3710)
    assert "510 other weights stay floats" in str(made)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"granularity": "group:2", "centroids": 300}, 8),
        ({"granularity": "channel", "centroids": 3}, 3),
        ({"granularity": "channel", "centroids": 300}, 4),
        ({"granularity": "tensor", "centroids": 300}, 16),
        ({"quantizer": "kmeans", "block": 2, "centroids": 300}, 8),
    ],
)
def test_codebooks_have_no_more_centroids_than_there_are_values(options: dict, expected: int) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(16.0).view(4, 4))
    (parameter,) = plan(model, {"quantize": [{"layers": "all", **options}]}).parameters.values()
    assert parameter.centroids == expected


@pytest.mark.parametrize(("options", "field"), [({"block": 3}, "block"), ({"block": 5}, "block")])
def test_what_a_layout_refuses_is_told_with_its_line(options: dict, field: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RecipeError, match=rf"quantize\[1\]\.{field}: 0\.weight.*leave it scalar by a later rule"):
        plan(model, {"quantize": [{"layers": "all", **options}]})


def test_integer_centroids_are_predicted(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(96, 96), nn.Linear(96, 96))
    rule = {"layers": "all", "centroids": 256, "granularity": "group:24"}
    result = compress(model, {"quantize": [rule], "storage": {"codebooks": "int8"}}, progress=False)
    (first, _) = result.plan.parameters.values()
    assert first.codebook_values == 4 * 256
    assert first.codebook_bytes(result.plan.recipe.storage) == 4 * (256 + 2)
    size = result.save(tmp_path / "model.safetensors")
    assert abs(result.plan.predicted_bytes - size) <= 0.01 * size


@pytest.mark.parametrize("given", [torch.zeros(2, 5, 12, 12), "text", [[1.0]], torch.zeros(2, 3, 12, 12).numpy(), {}])
def test_example_inputs_that_the_model_cannot_take(small_net: nn.Module, given: object) -> None:
    with pytest.raises(DataError, match="example_inputs"):
        plan(small_net, {"quantize": [{"layers": 1, "centroids": 4}]}, given)
    with pytest.raises(DataError, match="example_inputs"):
        compress(small_net, {"quantize": [{"layers": 1, "centroids": 4}]}, example_inputs=given, progress=False)
