"""Texts as inputs of a model, with the tokenizer of its folder."""

from __future__ import annotations

from typing import Any

import torch

from lloydmax.errors import DataError
from lloydmax.integrations.transformers.host import AutoTokenizer

_LENGTH = 256
"""Tokens of a text at most."""


def inputs_of(data: Any, model: Any, tokenizer: Any = None) -> Any:
    """Inputs as :func:`lloydmax.compress` takes them.

    Args:
        data: a list of texts, or anything else, which is given back as it is.
        model: of transformers.
        tokenizer: of transformers; ``None``: the one in the folder that the model was loaded from.

    Raises:
        DataError: the folder has no tokenizer.
    """
    if not isinstance(data, (list, tuple)) or not data or not all(isinstance(text, str) for text in data):
        return data
    tokenizer = tokenizer or tokenizer_of(model.config.name_or_path)
    if tokenizer.pad_token is None:
        rows = [tokenizer(text)["input_ids"] for text in data]
        stream = torch.tensor([token for row in rows for token in row])
        length = min(_LENGTH, len(stream))
        return {"input_ids": stream[: len(stream) // length * length].view(-1, length)}
    found = tokenizer(list(data), padding=True, truncation=True, max_length=_LENGTH, return_tensors="pt")
    return dict(found)


def tokenizer_of(folder: str) -> Any:
    """The tokenizer in a folder.

    Raises:
        DataError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # whatever transformers raises for what is not there
        reason = str(error).partition("\n")[0]
        raise DataError(f"{folder} has no tokenizer for texts: give tokenizer=... ({reason})") from error
