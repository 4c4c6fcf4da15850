"""A model that cannot take the data, in words: what it was given, what it said, and the usual cure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.data.batch import Batch, leaves
from lloydmax.errors import DataError, LloydmaxError

_MOST = 300
"""Characters of what a model said that are shown."""


def ask(model: nn.Module, batch: Batch) -> Any:
    """What a model gives for a batch.

    Raises:
        DataError: see :func:`refusal`; there is memory enough.
    """
    try:
        return batch.run(model)
    except (LloydmaxError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise refusal(model, batch, error) from error


def is_vague(error: DataError) -> bool:
    """Whether a :func:`refusal` says no more than that the sizes do not fit."""
    return str(error).endswith((_SIZES, _LIKE_TRAINING))


def refusal(model: nn.Module, batch: Batch, error: Exception) -> DataError:
    """The error to raise where a model fails on a batch.

    Args:
        model: that failed.
        batch: that it was given.
        error: what it raised.
    """
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0].strip()[:_MOST].rstrip('.')}" if lines else type(error).__name__
    found = (
        _axes(batch, said),
        _channels(batch, said),
        _vocabulary(model, batch, said),
        _decoder(model, batch, said),
        *_usual(said),
    )
    return DataError(
        f"{type(model).__name__} cannot take the data: it was given {_given(model, batch)} (N = {len(batch)} samples), "
        f"and said: {said}. {next(filter(None, found))}"
    )


def _given(model: nn.Module, batch: Batch) -> str:
    return " and ".join(_argument(name, value, len(batch)) for name, value in _arguments(model, batch))


def _arguments(model: nn.Module, batch: Batch) -> Iterator[tuple[str, object]]:
    names = _names(model)
    for number, value in enumerate(batch.args):
        yield (names[number] if number < len(names) else f"argument {number + 1}"), value
    yield from batch.kwargs.items()


def _names(model: nn.Module) -> list[str]:
    try:
        return list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return []


def _argument(name: str, value: object, samples: int) -> str:
    tensors = [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]
    said = " and ".join(_tensor(tensor, samples) for tensor in tensors)
    return f"{name} = {said or type(value).__name__}"


def _tensor(tensor: Tensor, samples: int) -> str:
    shape = ["N" if axis == 0 and size == samples else str(size) for axis, size in enumerate(tensor.shape)]
    return f"{_name(tensor.dtype)} ({', '.join(shape)})"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _axes(batch: Batch, said: str) -> str | None:
    """A layer took the samples for channels, since an axis is missing."""
    found = re.search(r"expected input\[([\d, ]+)\]", said)
    axes = found[1].count(",") + 1 if found else 0
    return _TOO_FEW if any(tensor.dim() == axes - 1 for tensor in batch.tensors()) else None


def _channels(batch: Batch, said: str) -> str | None:
    """Channels elsewhere, or another number of them."""
    found = re.search(r"to have (?P<w>\d+) channels, but got (?P<g>\d+)", said)
    found = found or re.search(r"should contain (?P<g>\d+) elements not (?P<w>\d+)", said)
    found = found or re.search(r"channel.*expected (?P<w>\d+) but got (?P<g>\d+)", said, re.IGNORECASE)
    if found is None:
        return None
    wanted = int(found["w"])
    for tensor in batch.tensors():
        axes = range(tensor.dim())
        if len(axes) > 2 and tensor.shape[-1] == wanted:
            order = ", ".join(map(str, (0, axes[-1], *axes[1:-1])))
            return f"The channels are its last axis, and the model has them second: give x.permute({order})"
    cure = f"The number of channels has to be {wanted}, not {found['g']}, as in training"
    if any(tensor.dim() == 4 for tensor in batch.tensors()):
        cure += f"; of a folder of pictures by lloydmax.images(folder, size, channels={wanted})"
        cure += ", or grey ones of colours by x.mean(1, keepdim=True)" if wanted == 1 else ""
    return cure


def _vocabulary(model: nn.Module, batch: Batch, said: str) -> str | None:
    """Numbers beyond the rows of an embedding."""
    rows = [module.num_embeddings for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))]
    whole = [tensor for tensor in batch.tensors() if tensor.dtype in (torch.int64, torch.int32) and tensor.numel()]
    if not (rows and whole and re.search(r"index .*out of (range|bounds)|valid range", said, re.IGNORECASE)):
        return None
    ranges = " and ".join(f"{int(tensor.min())} to {int(tensor.max())}" for tensor in whole)
    tables = ", ".join(map(str, dict.fromkeys(rows)))
    return (
        f"The numbers in it are {ranges}, and the embeddings of the model have {tables} rows, counted from 0: use the "
        "tokenizer of this model, and at most as many positions as it has"
    )


def _decoder(model: nn.Module, batch: Batch, said: str) -> str | None:
    """The second input of a model with a decoder is missing."""
    name = "decoder_input_ids"
    takes = name in _names(model) and name not in dict(_arguments(model, batch))
    if not takes or not re.search(rf"(must|have to) specify|{name}|NoneType", said):
        return None
    return (
        f"The decoder has no input: give {name} beside the others, int64 (N, T), or labels, in a dict by the names of "
        "the inputs"
    )


def _usual(said: str) -> Iterator[str]:
    return (cure for words, cure in _CURES if re.search(words, said, re.IGNORECASE))


_TOO_FEW = (
    "It has too few axes or too many: the first is the samples, so pictures are (N, C, H, W), where x[:, None] adds "
    "one channel, signals (N, C, T) and sequences (N, T, C)"
)
_SIZES = (
    "The sizes do not fit: give pictures of the size of training (lloydmax.images(folder, size=...), or --size), "
    "others with as many features, and at most as long as the model takes, with the samples along the first axis"
)
_LIKE_TRAINING = (
    "Give the inputs as in training: the same shapes, dtypes and scaling, with the samples along the first axis"
)
_CURES = (
    (
        r"\bdevice\b",
        "A tensor of the model does not move with it: hold it by self.register_buffer('name', tensor), or move the "
        "whole model by model.to(device)",
    ),
    (
        r"argument #1 'indices'|used as indices must be",
        "The model looks up rows by whole numbers: give them as int64, x.long()",
    ),
    (
        r"dtype|scalar type|input type|not implemented for|result type|expected .*(float|double|half)",
        "A layer takes other numbers than these: scale bytes and whole numbers to floats as in training, such as "
        "x.float() / 255; for folders use lloydmax.images(...)",
    ),
    (
        r"(positional|required keyword-only) argument|(have to|must) specify|NoneType",
        "An input is missing: give a dict by the names that the model's forward has, or tuples in its order",
    ),
    (r"\b\dD\b|dimension out of range|too many indices|values to unpack", _TOO_FEW),
    (
        r"size|height|width|shape|length|dimension|must be equal|expand|match|too small|larger",
        _SIZES,
    ),
    ("", _LIKE_TRAINING),
)
"""What is looked for in what a model said, and what it usually means."""
