"""What a recipe for the whole model leaves as it is is said: in the notes of the plan, and in one warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from foreign_layers import Classifier, Conv1D, Experts
from lloydmax import Plan
from torch import nn

ALL = {"layers": "all", "centroids": 16}


def planned(model: nn.Module, *rules: dict[str, Any], **more: Any) -> tuple[Plan, list[str]]:
    """A plan, and the warnings that it gave."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        plan = lloydmax.plan(model, {"quantize": list(rules), **more})
    return plan, [str(each.message) for each in told]


def recurrent() -> nn.Module:
    return nn.Sequential(nn.GRU(30, 50), nn.Embedding(400, 8), nn.Linear(8, 8))


def others() -> nn.Module:
    model = nn.Linear(30, 30)
    model.own_complex = nn.Parameter(torch.randn(9, 9, dtype=torch.complex64))
    model.own_double = nn.Parameter(torch.randn(9, 9).double())
    model.own_integers = nn.Parameter(torch.ones(9, 9, dtype=torch.int8), requires_grad=False)
    model.own_vector = nn.Parameter(torch.randn(99))
    return model


class Caching(nn.Module):
    """Buffers that are no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.register_buffer("cache", torch.randn(9, 9))
        self.register_buffer("mask", torch.tril(torch.ones(9, 9)))
        self.register_buffer("vector", torch.randn(99))
        self.register_buffer("bytes", torch.arange(100).view(50, 2).to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache[: len(x), : x.shape[1]] = x
        return self.layer(x)


def buffers() -> nn.Module:
    return Caching()


@pytest.mark.parametrize(
    ("made", "reasons"),
    [
        (lambda: nn.Sequential(Experts(), nn.Linear(16, 8)), {"0.gate.weight": "a router"}),
        (Classifier, {"positions": "its layout is not known", "cls": "its layout"}),
        (recurrent, {"0.weight_ih_l0": "recurrent", "0.weight_hh_l0": "GRU"}),
        (lambda: nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 8)), {"0.weight": "an embedding"}),
        (lambda: nn.Sequential(nn.LayerNorm((8, 9)), nn.Linear(9, 5)), {"0.weight": "a norm", "0.bias": "a norm"}),
        (buffers, {"cache": "forward writes", "mask": "two values", "vector": "no matrix", "bytes": "int8"}),
        (
            others,
            {"own_complex": "complex64", "own_double": "float64", "own_integers": "int8", "own_vector": "its layout"},
        ),
    ],
)
def test_large_weights_are_named_with_the_reason(made: Callable[[], nn.Module], reasons: dict[str, str]) -> None:
    plan, told = planned(made(), ALL)
    assert len(told) == 1
    for name, reason in reasons.items():
        (note,) = [note for note in plan.notes if note.startswith(f"{name} (")]
        assert reason in note and f"{name} (" in told[0] and reason in told[0]
    assert {one.name for one in plan.skipped if not one.expected} == set(reasons)
    assert plan.to_dict()["notes"] == plan.notes


def test_what_the_recipe_leaves_out_on_purpose_is_not_said() -> None:
    model = nn.Sequential(Experts(), nn.Linear(16, 8))
    kept = {"layers": "0", "parameter": "up", "quantizer": "none"}
    assert [one.name for one in planned(model, ALL, kept)[0].skipped] == ["0.gate.weight"]
    assert not planned(model, {**ALL, "except": ["0*"]})[1]
    for rule in ({"layers": "1"}, {**ALL, "types": ["Linear"]}, {**ALL, "parameter": "bias"}):
        plan, told = planned(model, rule)
        assert not plan.skipped and not told
    compressed = {"layers": "0*", "parameter": "*", "centroids": 4}
    assert not planned(model, ALL, compressed)[0].skipped


def test_the_rule_that_is_advised_works() -> None:
    plan, (told,) = planned(Classifier(), ALL)
    proposed = [one.rule for one in plan.skipped if one.rule is not None and not one.expected]
    assert any(f"such as {rule} compresses" in told for rule in proposed)
    again = lloydmax.plan(Classifier(), f"quantize: [{{layers: all, centroids: 16}}, {', '.join(proposed)}]")
    assert {"positions", "cls", "proj"} <= set(again.parameters) and not [s for s in again.skipped if not s.expected]


def test_biases_and_norms_are_noted_but_nobody_is_warned(small_net: SmallNet) -> None:
    plan, told = planned(small_net, ALL)
    assert not told and len(plan.notes) == 1 and plan.notes[0].startswith("biases and weights of norm")
    assert "head.0.bias (32, 1.4 %)" in plan.notes[0] and "running_mean" not in plan.notes[0]


def test_small_weights_are_not_worth_a_word() -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Embedding(4, 10))
    assert not planned(model, ALL)[0].skipped
    assert (
        planned(nn.Sequential(nn.Linear(64, 64, bias=False), nn.Embedding(4, 11)), ALL)[0].skipped[0].name == "1.weight"
    )


def test_a_number_of_bits_is_for_the_whole_model(text_net: TextNet) -> None:
    storage = {"codes": "entropy", "floats": "float16"}
    plan, (told,) = planned(text_net, {"layers": 2}, bits=20, storage=storage)
    assert "no rule selects it: attention.in_proj_weight (48x16" in told
    assert {"lstm.weight_ih_l0", "lstm.weight_hh_l0"} <= {one.name for one in plan.skipped}
    assert "embed.weight" not in told


@pytest.mark.parametrize(
    ("made", "reason"),
    [(recurrent, r"parameters \(0.weight_hh_l0, 0.weight_ih_l0"), (buffers, r"bytes: it is int8.* \(vector, cache")],
)
def test_no_budget_can_be_kept_beside_what_is_skipped(made: Callable[[], nn.Module], reason: str) -> None:
    recipe = {"quantize": [{"layers": "all"}], "bits": 1, "storage": {"codes": "entropy"}}
    with pytest.raises(lloydmax.BudgetError, match=f"fills alone .*{reason}"):
        lloydmax.plan(made(), recipe)


def test_int8_layers_are_convolutions_and_linear_layers_only() -> None:
    model = nn.Sequential(Conv1D(32, 64), nn.ReLU(), nn.Linear(64, 8))
    recipe = [{"layers": "all", "quantizer": "uniform", "bits": 8}]
    plan, (told,) = planned(model, *recipe, activations={"bits": 8})
    assert list(plan.parameters) == ["2.weight"] and "only standard layers can: 0.weight" in told
    assert "such as" not in told
    assert list(planned(model, *recipe)[0].parameters) == ["0.weight", "2.weight"]


def test_all_that_selects_nothing_says_what_there_is() -> None:
    with pytest.raises(lloydmax.RecipeError, match="which a rule has to name, are 0.weight_hh_l0, 0.weight_ih_l0"):
        lloydmax.plan(nn.Sequential(nn.LSTM(8, 16)), {"quantize": [ALL]})


def test_notes_are_read_at_80_columns() -> None:
    text = (
        str(planned(nn.Sequential(nn.Sequential(Experts())), ALL)[0]) if False else str(planned(Classifier(), ALL)[0])
    )
    listed = text[text.index("\n- ") :].strip().splitlines()
    assert all(len(line) <= 80 and line[:2] in ("- ", "  ") for line in listed)
    assert not any(line.strip().startswith("%") for line in listed)


def test_compress_warns_once_and_reports() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), Experts(), nn.Linear(16, 8)).eval()
    recipe = {"quantize": [ALL], "recover": [{"step": "equalize"}, {"step": "correct_bias"}]}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = lloydmax.compress(model, recipe, torch.randn(32, 5, 16), progress=False)
    assert len([each for each in told if "3.gate" in str(each.message)]) == 1
    assert list(result.report.notes) == result.plan.notes and "3.gate" in str(result.report)
    assert result.report.to_dict()["notes"] == result.plan.notes


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList([nn.Parameter(torch.randn(31, 32)) for _ in range(2)])
        self.yes = nn.ParameterDict({"null": torch.randn(31, 32)})


@pytest.mark.parametrize("made", [lambda: nn.Sequential(nn.Linear(9, 9), Listed().w), lambda: Listed().yes, Listed])
def test_the_rule_that_is_advised_can_be_read(made: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(8, 8), made())
    rules = [one.rule for one in planned(model, ALL)[0].skipped]
    assert rules and all(rules)
    text = "".join(f"  - {rule}\n" for rule in rules)
    assert not lloydmax.plan(model, f"quantize:\n  - {{layers: all, centroids: 16}}\n{text}").skipped
