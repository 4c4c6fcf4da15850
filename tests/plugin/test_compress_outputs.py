"""Outputs of any shape through whole compressions: named once in a recipe, they count in every part."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from lloydmax.network.trees import written
from lloydmax.teacher.agreement import Comparison
from lloydmax.teacher.fitness import data_fitness
from lloydmax.teacher.kept import Targets
from lloydmax_command import main
from torch import Tensor, nn

RULE: dict[str, Any] = {"layers": "all", "centroids": 4}
X = torch.randn(96, 6, 8, generator=torch.Generator().manual_seed(1))


@dataclasses.dataclass
class Found:
    """Scores by position, what they were made of, and what is no answer."""

    scores: Tensor
    parts: dict[str, Any]
    sure: Tensor
    note: str = "x"


class Net(nn.Module):
    """A small network over sequences; ``layout`` says where samples, positions and classes are."""

    def __init__(self, layout: str = "dataclass") -> None:
        super().__init__()
        self.inner, self.head, self.other = nn.Linear(8, 16), nn.Linear(16, 5), nn.Linear(16, 3)
        self.layout = layout

    def forward(self, x: Tensor) -> Any:
        inner = self.inner(x).relu()
        scores, other = 3 * self.head(inner), self.other(inner)
        if self.layout == "time first":
            return scores.transpose(0, 1)
        if self.layout == "classes second":
            return scores.transpose(1, 2)
        if self.layout == "plain":
            return scores
        if self.layout == "spectrum":
            return torch.fft.rfft(scores, dim=1)
        return Found(scores, {"other": [other, None], "loss": scores.square().mean()}, scores.argmax(-1))


def net(layout: str = "dataclass") -> Net:
    torch.manual_seed(0)
    return Net(layout).eval()


def recipe(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"quantize": [RULE | more.pop("rule", {})], "trainable": ["all"], "recover": list(steps), **more}


DISTILL = {"step": "distill", "steps": 8, "batch_size": 16, "held_out": 0.2}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What every kept set of outputs and every comparison reads: paths, and where the classes are."""
    seen: list[list[str]] = []

    def heard(original: Any) -> Any:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            seen.append([f"{written(leaf.path)} {leaf.classes}" for leaf in self.outputs.leaves])

        return init

    monkeypatch.setattr(Targets, "__init__", heard(Targets.__init__))
    return seen


def test_a_recipes_output_counts_in_every_part(read: list[list[str]]) -> None:
    whole = recipe(DISTILL, output="parts.other", rule={"importance": "fisher"})
    result = lloydmax.compress(net(), whole, X, progress=False)
    assert len(read) >= 3 and all(paths == ["parts.other.0 auto"] for paths in read)
    read.clear()
    found = lloydmax.search(net(), recipe(output="parts.other"), X, {"bits": 2}, samples=64, centroids=[2, 4, 8])
    assert read and all(paths == ["parts.other.0 auto"] for paths in read) and found.recipe.output == "parts.other"
    with torch.no_grad():
        ours, theirs = (model(X).parts["other"][0] for model in (result.model, net()))
    agreement = result.report.agreement.after
    assert agreement == pytest.approx(float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()), abs=2e-3)


def test_a_steps_own_output_goes_before_the_recipes(read: list[list[str]]) -> None:
    lloydmax.compress(net(), recipe({**DISTILL, "output": "scores"}, output="parts", classes=2), X, progress=False)
    assert {tuple(paths) for paths in read} == {("scores 2",), ("parts.other.0 2",)}


def test_all_that_has_an_entry_for_each_sample_counts_where_nothing_is_named(read: list[list[str]]) -> None:
    lloydmax.compress(net(), recipe(DISTILL), X, progress=False)
    assert read and all(paths == ["scores auto", "parts.other.0 auto"] for paths in read)


def test_fisher_looks_at_the_output_that_is_named() -> None:
    """The unused head has no gradient then, so all its weights matter alike."""
    made = {}
    for output in ("scores", "parts.other"):
        plain = lloydmax.compress(
            net(), recipe(rule={"layers": ["head", "other"], "importance": "fisher"}, output=output), X, progress=False
        )
        made[output] = lloydmax.codebooks(plain.model)
    unweighted = lloydmax.codebooks(
        lloydmax.compress(net(), recipe(rule={"layers": ["head", "other"]}), progress=False).model
    )
    assert torch.equal(made["scores"]["other.weight"].centroids, unweighted["other.weight"].centroids)
    assert torch.equal(made["parts.other"]["head.weight"].centroids, unweighted["head.weight"].centroids)
    assert not torch.equal(made["scores"]["head.weight"].centroids, unweighted["head.weight"].centroids)


@pytest.mark.parametrize(
    ("layout", "more"),
    [("time first", {}), ("classes second", {"classes": 1}), ("classes second", {"classes": -2})],
)
@pytest.mark.parametrize("step", [{**DISTILL, "loss": "kl", "confidence": 1.0}, {"step": "correct_bias"}])
def test_the_layout_of_an_output_makes_no_difference(layout: str, more: dict[str, Any], step: dict[str, Any]) -> None:
    for data in (X, X[:, :2], X.repeat(1, 11, 1)[:64, :64]):
        plain = lloydmax.compress(net("plain"), recipe(step), data, progress=False)
        other = lloydmax.compress(net(layout), recipe(step, **more), data, progress=False)
        a, b = (result.report.stages[-1].agreement for result in (plain, other))
        assert a is not None and b is not None and a.top1 == pytest.approx(b.top1, abs=2e-3)
        assert a.kl == pytest.approx(b.kl, rel=1e-2) and a.mse == pytest.approx(b.mse, rel=1e-3)
        for name, book in lloydmax.codebooks(plain.model).items():
            again = lloydmax.codebooks(other.model)[name]
            assert torch.allclose(book.centroids, again.centroids, rtol=1e-2, atol=1e-3), name


def test_a_search_reads_outputs_in_any_layout() -> None:
    wide = {"budget": {"bits": 2.5}, "samples": 48, "progress": False}
    plain = lloydmax.search(net("plain"), recipe(kinds="classes"), X, **wide)
    for layout, more in (("time first", {}), ("classes second", {"classes": 1})):
        found = lloydmax.search(net(layout), recipe(kinds="classes", **more), X, **wide)
        assert found.found.choice == plain.found.choice
        assert found.measured.kl == pytest.approx(plain.measured.kl, rel=1e-4)
        for ours, theirs in zip(found.sweep.rows, plain.sweep.rows, strict=True):
            assert ours.kl == pytest.approx(theirs.kl, rel=0.05 if not ours.measured else 1e-4)


def test_a_tuning_loop_keeps_the_outputs_that_are_named() -> None:
    loaded = lloydmax.Recipe.load(recipe(rule={"centroids": [2, 4]}, output="heads.cls", classes=1, mask=None))
    chosen = loaded.resolved({"quantize[1].centroids": 2})
    assert (chosen.output, chosen.classes, chosen.mask) == ("heads.cls", 1, None)
    assert {"output", "classes", "mask"} <= set(lloydmax.Recipe.json_schema()["properties"])


def test_outputs_without_classes_where_the_recipe_says_so() -> None:
    result = lloydmax.compress(net("plain"), recipe(DISTILL, classes=None), X, progress=False)
    assert result.report.agreement.after is None
    with pytest.raises(lloydmax.RecoveryError, match="needs an output with classes"):
        lloydmax.compress(net("plain"), recipe({**DISTILL, "loss": "kl"}, classes=None), X, progress=False)


def test_a_spectrum_is_compared_by_its_real_pairs() -> None:
    result = lloydmax.compress(net("spectrum"), recipe(DISTILL, rule={"importance": "fisher"}), X, progress=False)
    measured = result.report.stages[-1].agreement
    assert measured is not None and measured.top1 is None
    with torch.no_grad():
        apart = (result.model(X) - net("spectrum")(X)).abs().square().mean() / 2
    assert measured.mse == pytest.approx(float(apart), rel=1e-3)


class Reader(nn.Module):
    """Labels tokens; a position sees only itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(40, 12), nn.Linear(12, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": 2 * self.head(self.tokens(input_ids))}


def texts() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40, (48, 9), generator=draw)
    mask = torch.arange(9) < torch.randint(2, 10, (48, 1), generator=draw)
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


@pytest.mark.parametrize("rule", [{}, {"importance": "fisher"}])
def test_what_padding_holds_does_not_matter(rule: dict[str, Any]) -> None:
    torch.manual_seed(0)
    teacher, data = Reader().eval(), texts()
    other = {**data, "input_ids": torch.where(data["attention_mask"] == 1, data["input_ids"], 7)}
    whole = recipe({**DISTILL, "loss": "kl", "confidence": 0.5}, rule=rule)
    one, two = (lloydmax.compress(teacher, whole, given, progress=False) for given in (data, other))
    assert one.report.stages[-1].agreement == two.report.stages[-1].agreement
    for name, book in lloydmax.codebooks(one.model).items():
        assert torch.equal(book.codes, lloydmax.codebooks(two.model)[name].codes)
    with torch.no_grad():
        same = one.model(**data)["logits"].argmax(-1) == teacher(**data)["logits"].argmax(-1)
    real = data["attention_mask"] == 1
    assert one.report.agreement.after == pytest.approx(float(same[real].float().mean()), abs=1e-6)
    counted = lloydmax.compress(teacher, whole | {"mask": None}, data, progress=False)
    assert counted.report.stages[-1].agreement != one.report.stages[-1].agreement


def test_steps_and_functions_on_their_own() -> None:
    teacher, student = net("classes second"), net("classes second")
    with torch.no_grad():
        student.head.weight.add_(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)) * 0.2)
    told = lloydmax.distill(copy.deepcopy(student), teacher, X, steps=30, lr=0.02, loss="kl", classes=1)
    with torch.no_grad():
        before = float((student(X).argmax(1) == teacher(X).argmax(1)).float().mean())
    assert told["agreement"] > before
    with pytest.raises(lloydmax.RecoveryError, match="classes: 9 is not an axis"):
        lloydmax.distill(copy.deepcopy(student), teacher, X, steps=1, classes=9)
    (fitness,) = data_fitness(net(), {"x": X}, output="parts.other")
    assert fitness.class_use is not None
    found = lloydmax.recipe_for(net(), 6, X, effort=0.01, output="parts.other", classes=-1)
    assert (found.output, found.classes, found.mask) == ("parts.other", -1, "auto")
    assert "mask" not in found.data() and lloydmax.Recipe.load(found.data()).output == "parts.other"


@pytest.mark.parametrize(
    ("written", "read"), [("1.0", "1.0"), (1.0, "1.0"), ("'1.0'", "1.0"), (1, 1), ("heads.cls", "heads.cls")]
)
def test_paths_in_yaml(written: Any, read: Any, tmp_path: Path) -> None:
    text = f"quantize: [{{layers: all, centroids: 4}}]\noutput: {written}\nclasses: null\nmask: tokens_mask\n"
    found = lloydmax.Recipe.load(text)
    assert (found.output, found.classes, found.mask) == (read, None, "tokens_mask")
    found.save(tmp_path / "r.yaml")
    again = lloydmax.Recipe.load(tmp_path / "r.yaml")
    assert (again.output, again.mask) == (read, "tokens_mask")


@pytest.mark.parametrize("wrong", [{"output": True}, {"output": [True]}, {"classes": "last"}, {"mask": 3}])
def test_fields_that_are_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(lloydmax.RecipeError, match=next(iter(wrong))):
        lloydmax.Recipe.load(recipe(**wrong))


def test_what_cannot_be_compared_or_taken_is_told_before_any_work() -> None:
    fitted: list[str] = []

    class Watch:
        @lloydmax.hookimpl
        def lloydmax_parameter_fitted(self, name: str) -> None:
            fitted.append(name)

    watch = {"progress": False, "listeners": [Watch()]}
    with pytest.raises(lloydmax.RecoveryError, match=r"^recipe: output: .*'parts\.nothing'.*parts\.other\.0"):
        lloydmax.compress(net(), recipe(output="parts.nothing"), X, **watch)
    with pytest.raises(lloydmax.RecoveryError, match="'sure'.*decisions"):
        lloydmax.compress(net(), recipe(output="sure"), X, **watch)
    with pytest.raises(lloydmax.DataError, match=r"x = float32 \(N, 6, 7\)"):
        lloydmax.compress(net(), recipe(), X, X[..., :7], **watch)
    with pytest.raises(lloydmax.DataError, match=r"\(N, 6, 7\)"):
        lloydmax.sweep(net(), recipe(), X[..., :7])
    with pytest.raises(lloydmax.DataError, match=r"\(N, 6, 7\)"):
        lloydmax.run_step("correct_bias", net(), net(), X[..., :7])
    assert not fitted


class Detector(nn.Module):
    """Gives a list with an entry for each sample, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(6), nn.ReLU())

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return [{"boxes": boxes[boxes.sum(-1) > 0]} for boxes in self.backbone(x)]


def test_outputs_that_cannot_be_compared_matter_only_to_what_compares_them() -> None:
    teacher = Detector().eval()
    told = lloydmax.renormalize(copy.deepcopy(teacher), X)
    assert told["layers"] == 1
    with pytest.raises(lloydmax.RecoveryError, match="an entry for each sample"):
        lloydmax.distill(copy.deepcopy(teacher), teacher, X, steps=1)
    with pytest.raises(lloydmax.RecoveryError, match="an entry for each sample"):
        lloydmax.compress(teacher, recipe(DISTILL), X, progress=False)
    whole = lloydmax.compress(teacher.backbone, recipe(DISTILL), X, progress=False)
    assert whole.report.agreement.after is not None


def test_a_late_sample_that_the_model_cannot_take_is_told_in_words() -> None:
    teacher, data = Reader().eval(), texts()
    data["input_ids"][40, 0] = 40
    with pytest.raises(lloydmax.DataError, match="0 to 40.*40 rows"):
        lloydmax.compress(teacher, recipe(DISTILL), data, progress=False)


def test_the_command_compares_what_the_files_recipe_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    result = lloydmax.compress(net("classes second"), recipe(classes=1), X, progress=False)
    result.save("m.safetensors")
    torch.save(net("classes second").state_dict(), "w.pt")
    np.save("x.npy", X.numpy())
    words = ["evaluate", "--model", "test_compress_outputs:Net", "--model-args", '{"layout": "classes second"}']
    done = CliRunner().invoke(
        main, [*words, "--weights", "w.pt", "--student", "m.safetensors", "--data", "x.npy", "--json"]
    )
    assert done.exit_code == 0, done.output
    measured = Comparison(net("plain"), lloydmax.data.unlabelled(X, net("plain")))
    result.model.layout = "plain"
    assert f'"agreement": {measured.measure(result.model).top1}' in done.stdout.replace("\n", "")
