"""What a user names on the command line: a model, data, numbers, labels."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from lloydmax.cli.models import build
from lloydmax.cli.pictures import Pictures
from lloydmax.cli.shown import listeners
from lloydmax.data import unlabelled
from lloydmax.data.named_sets import PREFIX, named_set, picture_column
from lloydmax.data.sound_files import are_sounds
from lloydmax.data.texts import are_texts
from lloydmax.errors import DataError
from lloydmax.recipe.recipe import Recipe, ready
from lloydmax.runtime.files import check_writable
from lloydmax.runtime.text import quoted
from lloydmax.teacher.synthesis import synthesize

_ARGUMENTS = '{"num_classes": 10}'
_SYNTHESIZE = "synthesize:"
_NAMED = 10
"""Files or folders that are named in a message."""
_DIGITS = 19
"""Of a number with 64 bits."""
_FEW = 8
"""First samples, two of which can surely be used."""


def check_outputs(outputs: Mapping[str, str | None], inputs: Mapping[str, str | None]) -> None:
    """Refuse files that cannot be written, or that would replace an input or each other, before any work is done.

    Args:
        outputs: the path of every option that names a file to write; None: not given.
        inputs: the same of what is read.
    """
    check_apart(outputs, inputs)
    for path in outputs.values():
        if path is not None:
            check_writable(path)


def check_apart(outputs: Mapping[str, str | None], inputs: Mapping[str, str | None]) -> None:
    """Refuse files that would replace an input or each other; see :func:`check_outputs`."""
    given = [(option, path) for option, path in outputs.items() if path is not None]
    others = [(option, path) for option, path in inputs.items() if path is not None]
    for number, (option, path) in enumerate(given):
        for other, known in others + given[:number]:
            if _same(path, known):
                raise click.UsageError(f"{option} {path} is also {other}, which it would replace: give another path")


def _same(path: str, other: str) -> bool:
    """Whether two paths are one file, by whatever links."""
    try:
        return Path(path).samefile(other)
    except (OSError, ValueError):
        return os.path.realpath(path) == os.path.realpath(other)


def budget_of(text: str | None) -> dict[str, float] | None:
    """The budget of ``NAME=VALUE``."""
    if text is None:
        return None
    name, _, value = text.partition("=")
    try:
        return {name.strip(): int(value) if name.strip() == "bytes" else float(value)}
    except ValueError:
        raise click.UsageError(f"--budget is NAME=VALUE, such as bits=3, not {text!r}") from None


def share_of(text: str | None) -> float | None:
    """The share of ``98%`` or ``0.98``; None stays None."""
    if text is None:
        return None
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (1 if number == text.strip() else 100)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise click.UsageError(f"--pick is an agreement, such as 98% or 0.98, not {quoted(text)}")
    return share


def recipe_of(text: str) -> Recipe:
    """The recipe in a file, or a ready one by its name."""
    return Recipe.load(Path(str(ready(text))))


def whole_numbers(text: str | None) -> list[int] | None:
    """The whole numbers from 1 of a comma-separated list; None stays None."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < _DIGITS and int(part) for part in parts):
        raise click.UsageError(f"{quoted(text)} is not a comma-separated list of whole numbers from 1, such as 2,4,16")
    return [int(part) for part in parts]


def build_model(spec: str, weights: str | None, arguments: str | None, device: str) -> Any:
    """The model that a callable and a file of weights make."""
    try:
        keywords = json.loads(arguments) if arguments else {}
    except json.JSONDecodeError as error:
        raise click.UsageError(f"--model-args is not JSON: {error}; write it as '{_ARGUMENTS}'") from None
    if not isinstance(keywords, dict):
        raise click.UsageError(f"--model-args names arguments, such as '{_ARGUMENTS}'; {quoted(arguments)} does not")
    return build(spec, weights, keywords, device)


def data_of(path: str | None, model: Any, how: Pictures) -> Any:
    """The inputs that a path names; None stays None."""
    if path is None:
        return None
    if path.startswith(_SYNTHESIZE):
        return _synthesized(path.removeprefix(_SYNTHESIZE), model, how.side)
    if "://" in path:
        raise DataError(f"{path}: lloydmax reads no addresses: download it, unpack it, and give the file or folder")
    if path.startswith(PREFIX):
        rows = named_set(path.removeprefix(PREFIX))
        column = picture_column(rows)
        return rows if column is None else how.of_rows(rows, column, model)
    if are_sounds(Path(path)):
        return how.sounds(Path(path), model)
    folder = Path(path).is_dir() and not are_texts(Path(path))
    return how.read(Path(path), model) if folder or how.are_in(Path(path), model) else Path(path)


def _synthesized(count: str, model: Any, size: int) -> Any:
    if not count.isdecimal():
        raise click.UsageError(f"{_SYNTHESIZE}COUNT needs a number of images, not {count!r}")
    with listeners() as heard:
        return synthesize(model, int(count), size, listeners=heard)


def labels_of(labels: str, data: str, source: Any) -> Any:
    """The class of every input, from a ``.npy`` file or from the folders."""
    if labels == "folders":
        if not Path(data).is_dir():
            raise DataError("--labels folders needs --data to be a folder of images")
        return class_numbers(Path(data), source.dataset.files)
    try:
        found = np.load(labels, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{labels}: not a .npy file of class numbers: {error}") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iufb":
        raise DataError(f"{labels} holds no class numbers: give a .npy of integers")
    numbers = found.reshape(-1).astype(np.int64)
    if (numbers != found.reshape(-1)).any() or (numbers < 0).any():
        raise DataError(f"{labels}: class numbers are whole and from 0, not {found.min()} to {found.max()}")
    if len(numbers) != len(source):
        raise DataError(f"{labels} has {len(numbers)} labels, the data {len(source)} inputs")
    return torch.from_numpy(numbers)


def class_numbers(folder: Path, files: Sequence[Path]) -> torch.Tensor:
    """The class of every picture, by the folder below ``folder`` that it lies in; the folders count in the order of
    their names as text, as torchvision counts them, also those without a picture.

    Raises:
        DataError: a picture lies in no folder of a class.
    """
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    parts = [path.relative_to(folder).parts for path in files]
    if loose := [path.name for path, part in zip(files, parts, strict=True) if len(part) < 2]:
        raise DataError(
            f"--labels folders: {len(loose):,} pictures lie in {folder} itself, in the folder of no class: "
            f"{', '.join(loose[:_NAMED])}{' ...' if len(loose) > _NAMED else ''}. Move them into one"
        )
    if empty := sorted(set(classes) - {part[0] for part in parts}):
        warnings.warn(
            f"--labels folders: no picture in {', '.join(empty[:_NAMED])}{' ...' if len(empty) > _NAMED else ''}; all "
            f"{len(classes)} folders count as classes",
            stacklevel=2,
        )
    if all(name.isdecimal() for name in classes) and classes != sorted(classes, key=int):
        warnings.warn(
            f"--labels folders: classes are counted by the folders' names as text ({', '.join(classes[:4])} ...), as "
            "torchvision counts them. If the numbers are classes, write them with leading zeros",
            stacklevel=2,
        )
    return torch.tensor([classes.index(part[0]) for part in parts])


def noise(shape: str) -> Any:
    """Normally distributed numbers of a comma-separated shape, always the same."""
    sizes = shape.split(",")
    if not all(size.strip().isdecimal() and int(size) for size in sizes):
        raise click.UsageError(f"--shape is a comma-separated list of sizes, such as 1,3,224,224, not {shape!r}")
    try:
        return torch.randn([int(size) for size in sizes], generator=torch.Generator().manual_seed(0))
    except RuntimeError as error:
        raise click.UsageError(f"--shape {shape}: there is no memory for it: give a smaller one") from error


def first_batch(data: Any, model: Any, tokenizer: Any = None) -> Any:
    """The first two inputs of unlabelled data, as positional or keyword arguments."""
    source = unlabelled(data, model, tokenizer=tokenizer)
    batch = source.first(_FEW)[:2]
    return batch.kwargs or batch.args


def options_of(given: tuple[str, ...]) -> dict[str, Any]:
    """The options of ``NAME=VALUE``, values in JSON or plain words."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--option is NAME=VALUE, such as opset=23, not {text!r}")
        try:
            found[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            found[name.strip()] = value
    return found
