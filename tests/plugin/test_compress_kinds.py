"""Every output counts by what it tells and by its own spread, and the report says so; a recipe may say otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax import RecoveryError
from lloydmax.data import unlabelled
from lloydmax.extend import Outputs
from lloydmax.teacher.trial import trial
from lloydmax_strategies.importances import Fisher
from torch import Tensor, nn


class Heads(nn.Module):
    """A thousand times apart, with one that never changes, and whole numbers."""

    def __init__(self, scale: float = 1000.0) -> None:
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(12, 48), nn.Linear(48, 24), nn.Linear(48, 24)
        self.scale = scale

    def forward(self, x: Tensor) -> dict[str, Any]:
        found = self.trunk(x).relu()
        heads = {"a": self.first(found), "b": self.second(found) * self.scale}
        return {"heads": heads, "same": torch.full((len(x), 5), 3.0), "which": heads["a"].argmax(1)}


@pytest.fixture
def heads() -> Heads:
    torch.manual_seed(0)
    return Heads().eval()


DATA = torch.randn(96, 12, generator=torch.Generator().manual_seed(1))
RULES: dict[str, Any] = {"version": 1, "quantize": [{"layers": "all", "centroids": 8, "importance": "fisher"}]}


def importance(net: nn.Module, outputs: Outputs) -> dict[str, Tensor]:
    names = [name for name, p in net.named_parameters() if p.dim() > 1]
    return Fisher(Fisher.Options(samples=96)).measure(net, names, unlabelled(DATA, net), outputs)


def read(net: nn.Module, **asked: Any) -> Outputs:
    return trial(net, unlabelled(DATA, net), lloydmax.Recipe.load(RULES | asked).asked_outputs)


def test_what_counts_is_said(heads: Heads, tmp_path: Path) -> None:
    result = lloydmax.compress(heads, RULES, DATA, progress=False)
    said = ["heads.a unclear (taken as values)", "heads.b unclear (taken as values)", "same unclear (taken as values)"]
    assert list(result.plan.outputs) == result.plan.to_dict()["outputs"] == said
    assert f"Outputs: {', '.join(said)}" in " ".join(str(result.plan).split())
    report = result.report
    alike = report.stages[-1].agreement.alike
    assert [str(one) for one in report.outputs] == said and len(alike) == 3 and alike[2] == 1.0
    assert report.alike.after == min(alike) < 1 and f"{100 * min(alike):.2f} %" in str(report)
    report.to_json(tmp_path / "report.json")
    again = lloydmax.Report.from_json(tmp_path / "report.json")
    assert again.outputs == report.outputs and again.stages == report.stages
    older = {key: value for key, value in report.to_dict().items() if key not in ("outputs", "alike", "tried")}
    for stage in older["stages"][1:]:
        stage["agreement"] = {key: stage["agreement"][key] for key in ("top1", "kl", "mse", "samples")}
    lloydmax.runtime.files.write_json(tmp_path / "older.json", older)
    assert lloydmax.Report.from_json(tmp_path / "older.json").alike == report.agreement


def test_the_second_head_counts_like_the_first(heads: Heads) -> None:
    found = importance(heads, read(heads))
    first, second = found["first.weight"].mean(), found["second.weight"].mean()
    assert 0.5 < float(first / second) < 2, "each by its own spread"
    result = lloydmax.compress(heads, RULES, DATA, progress=False)
    one, other, _ = result.report.stages[-1].agreement.alike
    assert 0.3 < (1 - one) / (1 - other) < 3


def test_what_is_ignored_does_not_count(heads: Heads) -> None:
    outputs = read(heads, kinds={"heads.b": "ignore"})
    assert [leaf.place for leaf in outputs.leaves] == ["heads.a", "same"]
    found = importance(heads, outputs)
    assert float(found["first.weight"].mean()) > 0
    assert len(found["second.weight"].unique()) == 1, "nothing is told of it"
    report = lloydmax.compress(
        heads, RULES | {"kinds": {"heads.b": "ignore", "same": "ignore"}}, DATA, progress=False
    ).report
    assert [one.output for one in report.outputs] == ["heads.a"]


def test_kinds_are_taken_from_the_recipe(heads: Heads) -> None:
    outputs = read(heads, kinds={"heads": "classes", "heads.b[:, 4:8]": "scores", "same": "ignore"})
    assert [(leaf.place, leaf.kind) for leaf in outputs.leaves] == [
        ("heads.a", "classes"), ("heads.b[:, 0:4]", "classes"), ("heads.b[:, 4:8]", "scores"),
        ("heads.b[:, 8:24]", "classes"),
    ]  # fmt: skip
    assert [leaf.kind for leaf in read(heads, kinds="text", output="heads.a").leaves] == ["text"]
    recipe = lloydmax.recipe_for(heads, 8, DATA, effort=0, kinds={"heads": "classes"})
    assert recipe.data()["kinds"] == {"heads": "classes"}
    assert lloydmax.compress(heads, recipe, DATA, progress=False).report.stages[-1].agreement.top1 is not None


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"heads.c": "values"}, r"kinds: the model's output has no tensor 'heads.c'; it has heads.a"),
        ({"heads.a[:, 20:30]": "values"}, r"heads.a\[:, 20:30\] is not within the output"),
        ("ignore", "every output is ignored"),
    ],
)
def test_what_is_not_there_is_refused(heads: Heads, kinds: Any, said: str) -> None:
    with pytest.raises(RecoveryError, match=said):
        lloydmax.compress(heads, RULES | {"kinds": kinds}, DATA, progress=False)


class Reader(nn.Module):
    """Letters between blanks, time first."""

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.zeros(12, len(x), 9)
        scores[..., 0] = 4.0
        for place in (1, 4, 8):
            scores[place] = 9 * self.layer(x)
        return scores

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 9)


def test_texts_are_compared_whole() -> None:
    torch.manual_seed(0)
    net = Reader().eval()
    report = lloydmax.compress(net, RULES | {"kinds": "text"}, DATA, progress=False).report
    assert str(report.outputs[0]) == "output text"
    agreement = report.stages[-1].agreement
    assert agreement.alike[0] < agreement.top1 < 1, "places without a letter are easy"
    assert report.agreement.after == agreement.top1 and report.alike.after == agreement.alike[0]
