"""What is told of language models: perplexity on real tokens, percentiles of the divergence of single ones."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import pytest
import token_models as made
import torch
import torch.nn.functional as F
from lloydmax.data import unlabelled
from lloydmax.report import tables
from lloydmax.teacher import language
from lloydmax.teacher.agreement import Agreement, Comparison
from lloydmax.teacher.language import TokenFigures, TokenOutputs
from lloydmax.teacher.trial import trial
from torch import nn

IDS = made.tokens(24, shortest=1)


def noisy(model: Any) -> Any:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.05)
    return model


def measured(model: Any, other: Any, data: Any) -> TokenFigures:
    found = Comparison(model, unlabelled(data, model)).measure(other, tokens=True).tokens
    assert found is not None
    return found


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        given = model(torch.tensor([ids]))
    return (given if isinstance(given, torch.Tensor) else given.logits)[0]


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("build", [made.gpt2, made.Words])
def test_figures_of_the_next_token(build: Any, few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if few:
        monkeypatch.setattr(language, "_VALUES", 60)
    teacher, student = build(), noisy(build())
    found = measured(teacher, student, IDS)
    apart, losses, originals = [], [], []
    for ids in IDS:
        ours, theirs = logits(student, ids), logits(teacher, ids)
        apart += F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), log_target=True, reduction="none").sum(1).tolist()
        target = torch.tensor(ids[1:])
        losses += F.cross_entropy(ours[:-1], target, reduction="none").tolist()
        originals += F.cross_entropy(theirs[:-1], target, reduction="none").tolist()
    assert (found.tokens, found.labelled) == (len(apart), len(losses))
    assert found.perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    assert found.perplexity_original == pytest.approx(np.exp(np.mean(originals)), rel=1e-4)
    moved = np.exp(-np.array(losses)) - np.exp(-np.array(originals))
    assert found.change == pytest.approx(np.sqrt(np.mean(moved**2)), rel=1e-3)
    wanted = [np.mean(apart), *np.quantile(apart, [0.5, 0.9, 0.99, 0.999, 1])]
    each = [found.kl_mean, found.kl_median, found.kl_90, found.kl_99, found.kl_99_9, found.kl_max]
    assert each == pytest.approx(wanted, rel=1e-3)


def test_labels_that_are_given_count() -> None:
    teacher, student = made.gpt2(), noisy(made.gpt2())
    given = made.padded(IDS)
    labels = torch.where(given["attention_mask"] == 1, given["input_ids"], -100)
    every = measured(teacher, student, given | {"labels": labels})
    assert every == measured(teacher, student, given)
    labels[:, :3] = -100
    assert measured(teacher, student, given | {"labels": labels}).labelled < every.labelled


def test_a_masked_model_tells_what_was_masked() -> None:
    model, given = made.bert(), made.padded(IDS)
    assert measured(model, noisy(made.bert()), given).labelled == 0
    labels = torch.full_like(given["input_ids"], -100)
    labels[:, 1] = given["input_ids"][:, 1]
    found = measured(model, noisy(made.bert()), given | {"labels": labels})
    with torch.no_grad():
        loss = F.cross_entropy(model(**given).logits[:, 1], labels[:, 1])
    assert found.labelled == 24 and found.perplexity_original == pytest.approx(float(loss.exp()), rel=1e-4)


@pytest.mark.parametrize("build", [made.t5, made.bart])
def test_a_decoder_tells_its_labels(build: Any) -> None:
    model = build()
    given = made.padded(IDS)
    labels = made.padded([ids[:4] for ids in IDS])
    labels = torch.where(labels["attention_mask"] == 1, labels["input_ids"], -100)
    found = measured(model, noisy(build()), given | {"labels": labels})
    with torch.no_grad():
        loss = model(**given, labels=labels).loss
    assert found.labelled == found.tokens == int((labels != -100).sum())
    assert found.perplexity_original == pytest.approx(float(loss.exp()), rel=1e-4)


def test_which_models_look_ahead() -> None:
    for build, ahead in ((made.gpt2, True), (made.llama, True), (made.Words, True), (made.bert, False)):
        model = build()
        source = unlabelled(IDS, model)
        told = TokenOutputs.of(model, source, trial(model, source))
        assert told is not None and told.words and told.ahead is ahead
    tags = made.Encoder()
    source = unlabelled(IDS, tags)
    told = TokenOutputs.of(tags, source, trial(tags, source))
    assert told is not None and not told.words
    assert measured(tags, noisy(made.Encoder()), IDS).tokens == sum(map(len, IDS))


def test_outputs_of_no_tokens_have_no_such_figures() -> None:
    torch.manual_seed(0)
    net = nn.Linear(8, 5)
    assert Comparison(net, unlabelled(torch.randn(40, 8), net)).measure(net, tokens=True).tokens is None


def test_what_is_kept_is_read_again() -> None:
    model = made.gpt2()
    found = Comparison(model, unlabelled(IDS, model)).measure(noisy(made.gpt2()), tokens=True)
    assert Agreement.read(asdict(found)) == found


def test_the_report_speaks_of_tokens(tmp_path: Path) -> None:
    whole = {"quantize": [{"layers": "all", "centroids": 4}]}
    report = lloydmax.compress(made.gpt2(), whole, IDS, progress=False).report
    assert report.tokens is not None and report.perplexity is not None
    assert report.perplexity.original == report.tokens.perplexity_original != report.perplexity.after
    report.to_json(tmp_path / "r.json")
    again = lloydmax.Report.from_json(tmp_path / "r.json")
    assert (again.tokens, again.perplexity) == (report.tokens, report.perplexity)
    said = str(report)
    assert f"{report.perplexity.original:,.2f}" in said and "99.9 %" in said
    assert "tokens with the same top-1" in said
    page = tables.tokens(report)
    assert page.count("<tr>") == 4 and f"<td>{report.tokens.kl_99:,.5f}</td>" in page


def test_made_inputs_have_no_next_token() -> None:
    model = made.gpt2()
    whole = lloydmax.recipe_for(model, 4, effort=0)
    report = lloydmax.compress(model, whole, progress=False).report
    assert report.perplexity is None and report.tokens is not None and report.tokens.labelled == 0
