"""Samples that are sequences, mostly of tokens: as texts, lists of numbers, or what tokenizers make of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lloydmax.data.batch import Batch
from lloydmax.data.padding import DECODER_INPUT, LABELS, Padding
from lloydmax.errors import DataError
from lloydmax.runtime.text import printable

IDS = "input_ids"
TEXT_KEYS = ("text", "sentence", "content", "document")
"""Names of columns that hold texts, where none is named."""
NO_TOKENIZER = (
    "the data are texts, and no tokenizer was given: write compress(model, recipe, data, tokenizer=tokenizer), such as "
    "transformers.AutoTokenizer.from_pretrained(folder); on the command line --tokenizer FOLDER"
)
_MASK, _TYPES = "attention_mask", "token_type_ids"

Encoded = dict[str, list[int]]
"""What a tokenizer makes of one text, by the names of a model's inputs."""


class Tokenizing:
    """A tokenizer as a function of a text; padding and truncation of its own are left out.

    Args:
        tokenizer: of transformers, a ``tokenizers.Tokenizer``, or any function from a text to token numbers, or to a
            dict of lists.

    Attributes:
        end: the token behind a text, where the tokenizer tells one.

    Raises:
        DataError: it is something else.
    """

    def __init__(self, tokenizer: Any) -> None:
        if isinstance(tokenizer, str):
            name = printable(repr(tokenizer), 60)
            raise DataError(
                f"tokenizer={name} is a name, not a tokenizer: pass transformers.AutoTokenizer.from_pretrained({name})"
            )
        self._of_tokenizers = hasattr(tokenizer, "encode_batch") and hasattr(tokenizer, "to_str")
        if self._of_tokenizers:
            tokenizer = type(tokenizer).from_str(tokenizer.to_str())
            tokenizer.no_padding()
            tokenizer.no_truncation()
        elif not callable(tokenizer):
            raise DataError(
                f"a tokenizer of type {type(tokenizer).__name__} cannot be called: pass one of transformers or "
                "tokenizers, or a function from a text to a list of token numbers"
            )
        self._tokenizer = tokenizer
        end = getattr(tokenizer, "eos_token_id", None)
        self.end: int | None = end if isinstance(end, int) else None

    def __call__(self, text: str, longest: int | None = None) -> Encoded:
        """The tokens of a text, at most so many.

        Raises:
            DataError: the tokenizer fails, or gives something else.
        """
        if self._of_tokenizers:
            if longest is not None:
                self._tokenizer.enable_truncation(longest)
            made = self._tokenizer.encode(text)
            self._tokenizer.no_truncation()
        elif hasattr(self._tokenizer, "convert_ids_to_tokens"):
            cut: dict[str, Any] = {} if longest is None else {"truncation": True, "max_length": longest}
            made = self._tokenizer(text, padding=False, verbose=False, **cut)
        else:
            made = self._tokenizer(text)
        found = _encoded(made)
        real = found.get(_MASK)
        if real is not None and 0 in real:
            found = {key: [v for v, there in zip(values, real, strict=True) if there] for key, values in found.items()}
        return {key: values[:longest] for key, values in found.items()}


def _encoded(made: Any) -> Encoded:
    if hasattr(made, "ids") and hasattr(made, "type_ids"):
        return {IDS: list(made.ids), _MASK: list(made.attention_mask), _TYPES: list(made.type_ids)}
    given = made if isinstance(made, Mapping) else {IDS: made}
    found = {str(key): _whole_numbers(value) for key, value in given.items()}
    if (ids := found.get(IDS)) is None:
        raise DataError(
            f"the tokenizer gave {type(made).__name__}: it has to give a list of whole numbers, or a dict with {IDS!r}"
        )
    return {key: values for key, values in found.items() if values is not None and len(values) == len(ids)}


def _whole_numbers(value: Any) -> list[int] | None:
    """A flat list of whole numbers, also within one more; ``None``: it is none."""
    if isinstance(value, (Tensor, np.ndarray)):
        value = value.tolist()
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], (list, tuple)):
        value = value[0]
    return list(value) if is_flat(value) else None


def is_flat(value: Any) -> bool:
    """Whether this is one sequence of whole numbers: a list or tuple of them, or a tensor or an array with one axis."""
    if isinstance(value, Tensor):
        return value.dim() == 1 and not value.is_floating_point() and not value.is_complex()
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iub"
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(one, (int, np.integer)) for one in value)


@dataclass(frozen=True)
class Sequences:
    """Makes batches of samples that are sequences, for one model.

    Attributes:
        padding: of the model.
        positional: whether the tokens are its first argument, without a name that tokenizers know.
        reads: whether the model may take texts: it has a table of tokens, or a tokenizer is given.
        tokenizer: for texts; ``None``: there is none.
        longest: so many tokens at most of a text; ``None``: not known.
    """

    padding: Padding
    positional: bool
    reads: bool = True
    tokenizer: Tokenizing | None = None
    longest: int | None = None

    def has(self, item: Any) -> bool:
        """Whether this is one sample: a text, a list of token numbers, or a mapping with either."""
        if isinstance(item, str):
            return self.reads
        if isinstance(item, Mapping):
            return any(is_flat(item[key]) for key in self._keys(item)) or self._text_of(item) is not None
        if isinstance(item, (Tensor, np.ndarray)):
            return not self.positional and is_flat(item)
        return isinstance(item, list) and is_flat(item)

    def has_many(self, item: Any) -> bool:
        """Whether this is a batch of them: a list, or a mapping to lists."""
        if isinstance(item, Mapping):
            keys = (*self._keys(item), *(TEXT_KEYS if self.reads else ()))
            return any(_is_column(item[key]) for key in keys if key in item)
        return (
            isinstance(item, (list, tuple))
            and bool(item)
            and all(self.has(one) and not isinstance(one, (Tensor, np.ndarray)) for one in item)
        )

    def __call__(self, items: Any) -> Batch:
        """The batch of these samples, padded behind to the length of the longest.

        Raises:
            DataError: one is no sample, a text without a tokenizer, or they do not go together.
        """
        return self.padding.merged([self.row(item) for item in self.rows(items)])

    def rows(self, items: Any) -> Sequence[Any]:
        """The samples of what :meth:`has_many`."""
        if not isinstance(items, Mapping):
            return list(items)
        columns = {key: value for key, value in items.items() if isinstance(value, (list, tuple, Tensor, np.ndarray))}
        count = len(next(value for value in columns.values() if _is_column(value)))
        return [{key: value[n] for key, value in columns.items() if len(value) == count} for n in range(count)]

    def row(self, item: Any) -> Batch:
        """One sample as a batch of one."""
        made = item
        if (text := item if isinstance(item, str) else self._text_of(item)) is not None:
            if self.tokenizer is None:
                raise DataError(NO_TOKENIZER)
            made = dict(self.tokenizer(text, self.longest))
            if DECODER_INPUT in self.padding.names:
                made[LABELS] = made[IDS]
        elif not isinstance(item, Mapping):
            made = {IDS: item}
        found = {key: tensor for key, value in made.items() if (tensor := _tensor(value)) is not None}
        if IDS in found and not found[IDS].numel():
            raise DataError("it has no token")
        args = (found.pop(IDS),) if self.positional and IDS in found else ()
        labels = {LABELS: found.pop(LABELS)} if LABELS in found else {}
        kwargs = {key: value for key, value in found.items() if key in self.padding.names}
        if not args and not kwargs:
            raise DataError(f"a sample has {', '.join(map(str, made)) or 'nothing'}, and no input of the model")
        beside = {key: value for key, value in labels.items() if value.dim() == 2 and not value.is_floating_point()}
        return self.padding.tidied(self.padding.completed(self.padding.masked(Batch(args, kwargs, beside=beside))))

    def _keys(self, item: Mapping[Any, Any]) -> list[Any]:
        return [key for key in item if key in self.padding.names or key == IDS]

    def _text_of(self, item: Any) -> str | None:
        if not isinstance(item, Mapping) or self._keys(item) or not self.reads:
            return None
        return next((item[key] for key in TEXT_KEYS if isinstance(item.get(key), str)), None)


def _tensor(value: Any) -> Tensor | None:
    """A sample's input with an axis for samples; ``None``: it holds no numbers."""
    try:
        found = value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError):
        return None
    return found.unsqueeze(0)


def _is_column(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(v, str) or is_flat(v) for v in value)
