"""Padding counts for nothing: all figures are those of the sequences without it, and no byte depends on its content."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import token_models as made
import torch
from lloydmax.data import unlabelled
from lloydmax.fitting.fit import importances
from lloydmax.hooks.events import Events
from lloydmax.plan.plan import plan
from lloydmax.teacher.agreement import Comparison
from lloydmax.teacher.judge import Judge
from lloydmax.teacher.trial import trial

IDS = made.tokens(30, shortest=1, longest=14)
FEW = IDS[:9]
STEPS: list[dict[str, Any]] = [
    {"step": "reconstruct", "samples": 6},
    {"step": "correct_bias", "samples": 6},
    {"step": "distill", "steps": 1, "batch_size": 6, "loss": "kl", "features": 1.0},
]


def recipe(importance: str | None = "fisher", steps: list[dict[str, Any]] = STEPS) -> dict[str, Any]:
    rule = {"layers": "all", "centroids": 4} | ({} if importance is None else {"importance": importance})
    return {"quantize": [rule], "recover": steps}


def compressed(model: Any, data: Any, whole: dict[str, Any], **options: Any) -> lloydmax.Result:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lloydmax.compress(model, whole, data, progress=False, **options)


def noisy(model: Any) -> Any:
    with torch.no_grad():
        draw = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.05)
    return model


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("build", [made.gpt2, made.llama, made.bert, made.roberta])
def test_figures_are_those_without_padding(build: Callable[[], Any], side: str) -> None:
    teacher, student = build(), noisy(build())
    given = made.padded(IDS, side)
    assert 0.4 < float((given["attention_mask"] == 0).float().mean()) < 0.6
    alone = [{"input_ids": torch.tensor([ids])} for ids in IDS]
    found = []
    for data in (given, alone):
        source = unlabelled(data, teacher)
        comparison = Comparison(teacher, source)
        measured = comparison.measure(student, tokens=True)
        figures = [*astuple(measured)[:5], *measured.alike, *astuple(measured.tokens)]
        figures += [leaf.spread for leaf in comparison.outputs.leaves]
        found.append([figure for figure in figures if figure is not None] + [Judge(comparison).damage(student).mean])
    assert found[0] == pytest.approx(found[1], rel=2e-3, abs=1e-6)


def test_sets_are_ranked_without_padding() -> None:
    alone = [{"input_ids": torch.tensor([ids])} for ids in IDS]
    one, two = (lloydmax.data_fitness(made.bert(), {"x": data})[0] for data in (made.padded(IDS), alone))
    for key in ("class_use", "confidence", "variety"):
        assert getattr(one, key) == pytest.approx(getattr(two, key), rel=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_importances_are_those_without_padding(side: str) -> None:
    teacher, found = made.llama(), []
    planned = plan(teacher, recipe("inputs", []))
    for data in (made.padded(IDS, side), [{"input_ids": torch.tensor([ids])} for ids in IDS]):
        found.append(importances(teacher, planned, unlabelled(data, teacher), Events()))
    for name, theirs in found[1].items():
        assert torch.allclose(found[0][name], theirs, rtol=1e-4)


def test_fisher_information_is_measured_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, seen = made.gpt2(), []
    teacher.register_forward_pre_hook(lambda _, __, given: seen.append(given["attention_mask"]), with_kwargs=True)
    source = unlabelled(made.padded(IDS, "left"), teacher)
    outputs = trial(teacher, source)
    seen.clear()
    planned = plan(teacher, recipe("fisher", []))
    importances(teacher, planned, source, Events())
    masks = [mask for mask in seen if len(mask) < 16]
    assert outputs.mask == "attention_mask" and masks[-1].all()
    assert sum(int(mask.sum()) for mask in masks if mask.all()) >= sum(map(len, IDS))


@pytest.mark.parametrize("build", [made.gpt2, made.t5, made.Encoder])
def test_no_byte_depends_on_what_padding_holds(build: Callable[[], Any], tmp_path: Path) -> None:
    files = []
    for content in (0, 7):
        given: dict[str, Any] = made.padded(FEW, "left" if build is made.gpt2 else "right", content)
        if build is made.t5:
            labels = made.padded([ids[:5] for ids in FEW], content=-100)["input_ids"]
            given["labels"] = labels
        if build is made.Encoder:
            given = {"ids": given["input_ids"], "src_key_padding_mask": given["attention_mask"] == 0}
        result = compressed(build(), given, recipe(steps=STEPS[1:] if build is made.t5 else STEPS))
        result.save(tmp_path / f"{content}.safetensors")
        files.append((tmp_path / f"{content}.safetensors").read_bytes())
        assert result.report.stages[-1].agreement is not None
    assert files[0] == files[1]


def test_layers_see_no_padding() -> None:
    """The student is fitted as without it: reconstruction and bias correction on the same rows."""
    steps = STEPS[:2]
    one = compressed(made.bert(), made.padded(FEW), recipe(None, steps))
    two = compressed(made.bert(), [{"input_ids": torch.tensor([ids])} for ids in FEW], recipe(None, steps))
    for ours, theirs in zip(one.report.recovery, two.report.recovery, strict=True):
        figures = {key: value for key, value in ours.items() if isinstance(value, float)}
        assert figures == pytest.approx({key: theirs[key] for key in figures}, rel=1e-3)


def test_recipe_for_takes_texts() -> None:
    model, texts = made.gpt2(), made.sentences(30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = lloydmax.recipe_for(model, 3.5, texts, effort=0, tokenizer=made.tokenizer())
        result = lloydmax.compress(model, found, texts, tokenizer=made.tokenizer(), progress=False)
    assert result.report.stages[-1].agreement.tokens.perplexity > 1


def test_a_run_goes_on_with_batches_of_several_lengths(tmp_path: Path) -> None:
    whole = recipe(None, STEPS[2:]) | {"keep": "best"}
    one = compressed(made.gpt2(), FEW, whole)
    two = compressed(made.gpt2(), FEW, whole, workdir=tmp_path)
    again = compressed(made.gpt2(), FEW, whole, workdir=tmp_path)
    for name, value in one.model.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, two.model.state_dict()[name])
            assert torch.equal(value, again.model.state_dict()[name])


def test_every_function_takes_a_tokenizer() -> None:
    model, texts, given = made.gpt2(), made.sentences(60), {"tokenizer": made.bare_tokenizer()}
    student = compressed(model, None, {"quantize": [{"layers": "all", "centroids": 4}]}).model
    lloydmax.distill(noisy(made.gpt2()), model, texts, steps=1, batch_size=4, **given)
    assert student is not None
    assert lloydmax.data_fitness(model, {"texts": texts}, **given)[0].name == "texts"
    swept = lloydmax.sweep(model, {"quantize": [{"layers": "all", "centroids": [2, 4]}]}, texts, **given)
    assert swept.rows
    found = lloydmax.search(model, {"quantize": [{"layers": "all", "centroids": [2, 4]}]}, texts, {"bits": 3}, **given)
    assert found.measured.kl is not None
