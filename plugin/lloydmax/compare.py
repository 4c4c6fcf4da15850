"""Compressed files beside each other: sizes, layers, and how each answers beside its original."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from lloydmax.checkpoint import codebook_in, load, structured_as
from lloydmax.codebook.codebook import Codebook
from lloydmax.data import unlabelled
from lloydmax.errors import DataError, ReportError
from lloydmax.format.inspection import inspect
from lloydmax.format.parts import settings
from lloydmax.format.reader import File, naming
from lloydmax.network.baking import copied
from lloydmax.network.given import network
from lloydmax.network.outputs import AskedOutputs
from lloydmax.recipe.recipe import Recipe
from lloydmax.report.charts import LETTERS
from lloydmax.report.comparison import ComparedFile, ComparedLayer, FileComparison
from lloydmax.runtime.modes import own_modes
from lloydmax.student.held import contents
from lloydmax.teacher.agreement import Agreement, Comparison
from lloydmax.teacher.trial import trial


def compare(
    files: Sequence[str | os.PathLike[str]],
    model: nn.Module | None = None,
    data: Any = None,
    *,
    samples: int = 1000,
    limit: int | None = None,
    tokenizer: Any = None,
) -> FileComparison:
    """Compare compressed files of one model.

    Args:
        files: at least two, or one with ``model``; at most eight.
        model: the original; then the weights of each layer are compared with its own, in the structure that the file
            has. ``None``: with those of the first file.
        data: unlabelled inputs, as :func:`lloydmax.compress` takes them, for the agreement of each file with the
            original.
        samples: how many of them count.
        limit: bytes that a file may decode to, see :func:`lloydmax.load`.
        tokenizer: for texts.

    Raises:
        CheckpointError: a file is damaged, or belongs to another model. DataError: data without a model, or data that
            cannot be used. ReportError: too few or too many files.
    """
    if not (1 if model is not None else 2) <= len(files) <= len(LETTERS):
        raise ReportError(f"{len(files)} files cannot be compared: give two to {len(LETTERS)}, or one and its model")
    if data is not None and model is None:
        raise DataError("the agreement needs the original beside the data: give the model, too")
    with own_modes():
        layers = [*_layers(files, limit)] if model is None else [_against(path, model, limit) for path in files]
        measured_on: str | None = None
        agreements: Sequence[Agreement | None] = [None] * len(files)
        if model is not None and data is not None:
            measured_on, agreements = _agreements(files, network(model), data, samples, limit, tokenizer)
        found = [inspect(path, limit) for path in files]
    made = (
        ComparedFile(os.fspath(path), (one.recipe or {}).get("name"), one.bytes, one.original, agreement, held)
        for path, one, agreement, held in zip(files, found, agreements, layers, strict=True)
    )
    return FileComparison(tuple(made), LETTERS[0] if model is None else "the original", measured_on)


def asked_of(model: nn.Module) -> AskedOutputs:
    """What the recipe of a compressed model says about its outputs."""
    recipe = settings(model, None, None)[0] or {}
    said: dict[str, Any] = {key: recipe[key] for key in ("output", "classes", "mask", "kinds") if key in recipe}
    return Recipe.load(said | {"quantize": [{"layers": "all", "quantizer": "none"}]}).asked_outputs


def _layers(files: Sequence[str | os.PathLike[str]], limit: int | None) -> Iterator[dict[str, ComparedLayer]]:
    """The layers of every file, their weights compared with those of the first one; one layer is decoded at a time."""
    with ExitStack() as stack:
        opened = []
        for path in files:
            with naming(path):
                opened.append(stack.enter_context(File(path, limit)))
        first = opened[0]
        for path, file in zip(files, opened, strict=True):
            made = {}
            for name in file.document.parameters:
                with naming(path):
                    held = codebook_in(file, name)
                with naming(files[0]):
                    known = name in first.document.parameters and file is not first
                    reference = codebook_in(first, name).dequantize() if known else None
                made[name] = _layer(file, name, held, reference)
            yield made


def _against(path: str | os.PathLike[str], model: nn.Module, limit: int | None) -> dict[str, ComparedLayer]:
    """The layers of a file, their weights compared with those of the original."""
    with naming(path), File(path, limit) as file:
        values: Mapping[str, Tensor | Codebook] = contents(structured_as(file, model))[0]
        return {
            name: _layer(file, name, codebook_in(file, name), values.get(name)) for name in file.document.parameters
        }


def _layer(file: File, name: str, held: Codebook, reference: Any) -> ComparedLayer:
    taken = sum(file.entries[f"{name}.{part}"].bytes for part in ("codebook", "codes"))
    difference = None
    if isinstance(reference, Tensor) and tuple(reference.shape) == held.shape:
        difference = 10 ** (-held.snr(reference.to(held.codes.device)) / 20)
    weights = held.codes.numel() * held.block
    return ComparedLayer(held.k, held.granularity, 8 * taken / weights, taken, difference)


def _agreements(
    files: Sequence[str | os.PathLike[str]],
    model: nn.Module,
    data: Any,
    samples: int,
    limit: int | None,
    tokenizer: Any,
) -> tuple[str, list[Agreement]]:
    """What was measured on, and how alike each file is."""
    source = unlabelled(data, model, tokenizer=tokenizer)
    made: Comparison | None = None
    found = []
    for path in files:
        student = load(path, copied(model), limit)
        made = made or Comparison(model, source, samples, key=trial(model, source, asked_of(student)))
        found.append(made.measure(student))
    assert made is not None
    return made.describe(), found
