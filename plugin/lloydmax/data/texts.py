"""Texts, from lists and files, as token sequences of a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lloydmax.data.picture_files import SUFFIXES as PICTURES
from lloydmax.data.tokens import IDS, NO_TOKENIZER, TEXT_KEYS, Tokenizing
from lloydmax.errors import DataError
from lloydmax.runtime.arguments import whole
from lloydmax.runtime.files import shown
from lloydmax.runtime.text import printable

SUFFIXES = (".txt", ".jsonl")
LENGTH = 256
"""Tokens of a sequence, where nothing else is said and the model takes as many."""
_BYTES = 2**30
"""Of text that are read at most."""
_PIECE = 2**20
"""Characters of a text that are tokenized at once: a tokenizer needs some hundred bytes for each."""


class Texts:
    """Texts on their way to a model; see :func:`texts`."""

    def __init__(
        self,
        documents: Sequence[str],
        origin: str,
        lines: bool,
        tokenizer: Any = None,
        length: int | None = None,
        pack: bool | None = None,
        limit: int | None = None,
    ) -> None:
        self.documents, self.origin, self._lines = list(documents), origin, lines
        self.tokenizer, self.length, self.pack, self.limit = tokenizer, length, pack, limit

    def __len__(self) -> int:
        """Texts, each of which is a sample where they are not packed; at most ``limit``."""
        return len(self.samples())

    def __getitem__(self, index: int) -> str:
        return self.samples()[index]

    def samples(self) -> list[str]:
        """The texts one by one: of files their lines, but for empty ones."""
        each = [line for one in self.documents for line in one.splitlines()] if self._lines else self.documents
        return [one for one in each if one.strip()][: self.limit]

    def packed(self, tokenizer: Tokenizing, longest: int | None) -> Tensor:
        """The tokens of all texts, one after the other with the tokenizer's end of a text behind each, cut into
        sequences: int64 ``(sequences, length)``. A text of over 2^20 characters counts as several, cut at lines. What
        is left at the end does not count, unless it is all there is.

        Args:
            tokenizer: of the model.
            longest: sequence that the model takes; ``None``: not known.

        Raises:
            DataError: there is no token.
        """
        length = self.length or min(LENGTH, longest or LENGTH)
        tokens: list[Tensor] = []
        count, wanted = 0, None if self.limit is None else self.limit * length
        for text in (piece for one in self.documents for piece in _pieces(one)):
            found = tokenizer(text)[IDS]
            if tokenizer.end is not None and found[-1:] != [tokenizer.end]:
                found = [*found, tokenizer.end]
            tokens.append(torch.tensor(found, dtype=torch.int64))
            count += len(found)
            if wanted is not None and count >= wanted:
                break
        every = torch.cat(tokens)[:wanted]
        if not len(every):
            raise DataError(f"there is no token in the texts {self.origin}")
        length = min(length, len(every))
        return every[: len(every) // length * length].view(-1, length)


def texts(
    source: Any,
    tokenizer: Any = None,
    length: int | None = None,
    *,
    pack: bool | None = None,
    limit: int | None = None,
    field: str | None = None,
) -> Texts:
    """Texts as unlabelled inputs of a model that takes tokens.

    Args:
        source: a list of texts, a ``.txt`` or ``.jsonl`` file, or a folder of such files at any depth.
        tokenizer: of ``transformers`` or ``tokenizers``, or any function from a text to token numbers or to a dict of
            lists; ``None``: the one that :func:`lloydmax.compress` is given.
        length: tokens of a packed sequence, and at most of any other; ``None``: 256, or as many as the model takes.
        pack: whether all texts become one stream that is cut into sequences of ``length``, so that nothing is padded;
            else each text, of ``.txt`` files each line, is a sample, padded behind. ``None``: as suits the model:
            packed where it generates text, or has no mask that would tell padding.
        limit: at most so many samples; ``None``: all.
        field: of the objects in a ``.jsonl`` file; ``None``: ``text``, or the first of the usual names.

    Raises:
        DataError: nothing can be read there, there is no text, or an argument is out of range.
    """
    for name, value in (("length", length), ("limit", limit)):
        if value is not None:
            whole(name, value, DataError)
    if isinstance(source, Texts):
        raise DataError("texts: the source is made by texts already: give it as data")
    if isinstance(source, (str, os.PathLike)):
        files = text_files(Path(source))
        read = [text for file in files for text in _read(file, field)]
        lines = any(file.suffix.lower() == ".txt" for file in files)
        return _checked(Texts(read, f"from {shown(source)}", lines, tokenizer, length, pack, limit))
    if isinstance(source, Iterable):
        given = list(source)
        if all(isinstance(one, str) for one in given):
            return _checked(Texts(given, "in memory", False, tokenizer, length, pack, limit))
    raise DataError(
        f"texts takes a list of texts, a .txt or .jsonl file, or a folder of them, not what is of type "
        f"{type(source).__name__}"
    )


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces that end with a line, where there is one."""
    start = 0
    while len(text) - start > _PIECE:
        end = text.rfind("\n", start, start + _PIECE) + 1 or start + _PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def _checked(made: Texts) -> Texts:
    if made.tokenizer is not None:
        Tokenizing(made.tokenizer)
    if not len(made):
        raise DataError(f"there is no text {made.origin}")
    return made


def are_texts(path: Path) -> bool:
    """Whether a file, or a folder by all that lies below it, holds texts and no pictures."""
    if path.is_dir():
        kinds = {file.suffix.lower() for file in _below(path)}
        return bool(kinds & set(SUFFIXES)) and not kinds & PICTURES
    return path.suffix.lower() in SUFFIXES and path.is_file()


def text_files(path: Path) -> list[Path]:
    """The file, or those below the folder, sorted by path.

    Raises:
        DataError: there is none.
    """
    found = sorted(file for file in _below(path) if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        kinds = " or ".join(SUFFIXES)
        what = f"no {kinds} file lies in {shown(path)}" if path.is_dir() else f"there is no file {shown(path)}"
        raise DataError(f"{what}: give a list of texts, a {kinds} file, or a folder of them")
    if (size := sum(file.stat().st_size for file in found)) > _BYTES:
        raise DataError(f"{shown(path)}: {size:,} bytes of text are more than {_BYTES:,}: give a part of them")
    return found


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _read(file: Path, field: str | None) -> Iterator[str]:
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(file)} cannot be read as text in UTF-8: {printable(str(error), 200)}") from None
    if file.suffix.lower() != ".jsonl":
        yield content
        return
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            yield _text_in(line, f"{shown(file)}, line {number}", field)


def _text_in(line: str, where: str, field: str | None) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: this is no JSON: give one object, or one text in quotes, a line") from None
    if isinstance(found, dict):
        keys = [field] if field is not None else TEXT_KEYS
        value = next((found[key] for key in keys if isinstance(found.get(key), str)), None)
        if value is None:
            has = printable(", ".join(map(str, found)), 100)
            raise DataError(f"{where}: there is no text in {' or '.join(keys)}, but {has}: name it by texts(field=...)")
        return str(value)
    if isinstance(found, str):
        return found
    raise DataError(f"{where}: this is neither an object nor a text")


def tokenizing(made: Texts, tokenizer: Tokenizing | None) -> Tokenizing:
    """The tokenizer of texts, its own before another.

    Raises:
        DataError: there is neither.
    """
    if made.tokenizer is not None:
        return Tokenizing(made.tokenizer)
    if tokenizer is None:
        raise DataError(NO_TOKENIZER)
    return tokenizer
