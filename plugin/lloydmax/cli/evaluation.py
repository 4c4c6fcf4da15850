"""The command that compares a compressed model with its original, or sets of inputs with each other."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from lloydmax import checkpoint
from lloydmax.cli.inputs import build_model, data_of, labels_of
from lloydmax.cli.models import tokenizer_of
from lloydmax.cli.pictures import Pictures
from lloydmax.cli.shown import show
from lloydmax.compare import asked_of
from lloydmax.data import unlabelled
from lloydmax.network.baking import copied
from lloydmax.runtime.text import printable, render
from lloydmax.teacher.agreement import Comparison, accuracy
from lloydmax.teacher.fitness import data_fitness as rank_data
from lloydmax.teacher.fitness_table import fitness_table
from lloydmax.teacher.trial import trial

_SHARES = ("agreement", "alike", "accuracy_original", "accuracy_compressed")
"""Of the figures, those that are printed as percentages."""


def evaluate(
    sets: tuple[str, ...], model: str, weights: str | None, model_args: str | None, device: str, student: str | None,
    limit: int | None, data: str | None, pictures: Pictures, labels: str | None,
    samples: int | None, data_fitness: bool, as_json: bool,
) -> None:  # fmt: skip
    """Do what ``lloydmax evaluate`` is asked."""
    if data_fitness:
        if not sets or student or data or labels:
            raise click.UsageError("--data-fitness takes sets of inputs, as in: --data-fitness photos/ drawings.npy")
        teacher = build_model(model, weights, model_args, device)
        given = {name: data_of(name, teacher, pictures) for name in sets}
        _rank(given, teacher, samples, tokenizer_of(model, pictures.tokenizer), as_json)
        return
    if sets or student is None or data is None:
        raise click.UsageError("give --student and --data, or --data-fitness and sets of inputs")
    teacher = build_model(model, weights, model_args, device)
    small = checkpoint.load(student, copied(teacher), limit)
    source = unlabelled(data_of(data, teacher, pictures), teacher, tokenizer=tokenizer_of(model, pictures.tokenizer))
    outputs = trial(teacher, source, asked_of(small))
    comparison = Comparison(teacher, source, len(source) if samples is None else samples, key=outputs)
    found = comparison.measure(small, tokens=True)
    result: dict[str, Any] = {"agreement": found.top1, "alike": found.agreed}
    result |= {"kl": found.kl, "mse": found.mse, "samples": found.samples}
    if found.tokens is not None:
        result |= {key: value for key, value in asdict(found.tokens).items() if value is not None}
    if labels is not None:
        classes = labels_of(labels, data, source)
        result["accuracy_original"] = accuracy(teacher, source, classes, outputs)
        result["accuracy_compressed"] = accuracy(small, source, classes, outputs)
    result["left_out"] = len(source.left_out)
    against = "its original" if weights is None else f"its original with the weights {weights}"
    said = f"{student} against {against}, on {comparison.describe()}"
    lines = "\n".join(f"{key:20} {_shown(key, value)}" for key, value in result.items())
    show(result | {"measured_on": comparison.describe()}, f"{printable(said)}\n{lines}", as_json)


def _shown(key: str, value: Any) -> str:
    """A figure as people write it."""
    if key in _SHARES and value is not None:
        return f"{100 * value:.2f} %"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rank(sets: dict[str, Any], model: Any, samples: int | None, tokenizer: Any, as_json: bool) -> None:
    found = rank_data(model, sets, tokenizer=tokenizer, **({} if samples is None else {"samples": samples}))
    show([each.to_dict() for each in found], render(fitness_table(found)), as_json)
