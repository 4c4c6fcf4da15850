"""What outputs tell, in words: the kinds, how alike two models answer in each, and what a recipe says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Tag, TypeAdapter, ValidationError

Kind = Literal["classes", "scores", "values", "text", "unclear"]
"""Of what an output tells: which class (a softmax over an axis), independent probabilities, quantities, or a class at
every place of a sequence, of which the text counts; ``unclear`` may be classes or quantities."""
Word = Literal["classes", "scores", "values", "text", "unclear", "ignore"]
"""What a recipe may say: a kind, or that an output does not count."""
IN_WORDS: dict[str, str] = {
    "classes": "classes",
    "scores": "scores (independent)",
    "values": "values (regression)",
    "text": "text",
    "unclear": "unclear (taken as values)",
}
ALIKE: dict[str, str] = {
    "classes": "decisions with the same top-1",
    "scores": "the same scores are high (F1)",
    "values": "1 - relative squared error",
    "text": "inputs with the same text",
    "unclear": "1 - relative squared error",
}
"""How alike two models answer: what is shared, 0 to 1."""
ROOT = "output"
"""The path of an output that is one tensor."""
_PLACE = re.compile(
    r"(?P<path>.*?)\s*\[(?P<before>(?:\s*:\s*,)+)\s*(?P<first>\d{1,9})\s*:\s*(?P<end>\d{1,9})\s*\]", re.S
)
_MOST = 1000


def as_written(value: Any) -> Any:
    """YAML reads ``1.0`` as a number; it means position 0 in position 1."""
    if isinstance(value, bool):
        raise ValueError("give a path such as logits, heads.cls or '1.0'")
    return repr(value) if isinstance(value, float) else value


@dataclass(frozen=True)
class Place:
    """An output, or a part of one.

    Attributes:
        path: of it, or of a part of the tree; empty: of all outputs.
        part: ``(axis, first, end)`` of the slice, samples along the first axis; ``None``: all of it.
    """

    path: str
    part: tuple[int, int, int] | None = None

    @classmethod
    def read(cls, text: str) -> Place:
        """What :meth:`__str__` gives: ``heads.cls``, ``0[:, 4:22]``.

        Raises:
            ValueError: it is something else.
        """
        found = _PLACE.fullmatch(text)
        if found is None:
            if text.endswith("]"):
                raise ValueError("a part of an output is written as in '0[:, 4:22]', samples first")
            return cls(text)
        first, end = int(found["first"]), int(found["end"])
        if first >= end:
            raise ValueError(f"the part {first}:{end} is empty")
        return cls(found["path"], (found["before"].count(","), first, end))

    def __str__(self) -> str:
        if self.part is None:
            return self.path or ROOT
        axis, first, end = self.part
        return f"{self.path or ROOT}[{', '.join([':'] * axis + [f'{first}:{end}'])}]"

    def covers(self, path: str) -> bool:
        """Whether a tensor of this path is meant, or lies in what is meant."""
        return self.path in ("", path) or path.startswith(f"{self.path}.") or (self.path == ROOT and not path)


def _place(text: Any) -> str:
    Place.read(text)
    return str(text)


def _key(value: Any) -> Any:
    value = as_written(value)
    return str(value) if isinstance(value, int) else value


_Words = Annotated[
    dict[Annotated[str, BeforeValidator(_key), AfterValidator(_place)], Word], AfterValidator(lambda given: _few(given))
]


def _few(given: dict[str, Word]) -> dict[str, Word]:
    if not 1 <= len(given) <= _MOST:
        raise ValueError(f"name 1 to {_MOST:,} outputs")
    return given


Kinds = Annotated[
    Annotated[Word, Tag("word")] | Annotated[_Words, Tag("words")],
    Discriminator(lambda given: "words" if isinstance(given, Mapping) else "word"),
]
"""What a recipe says of the kinds of outputs: one word for all, or words by place."""
_KINDS: TypeAdapter[Any] = TypeAdapter(Kinds)


@dataclass(frozen=True)
class Named:
    """What is known of an output without looking at it."""

    place: Place
    word: Word


def named(given: Any) -> tuple[Named, ...]:
    """What was said of the kinds of outputs, place by place.

    Args:
        given: a word, words by place, ``None``, or what this function gave.

    Raises:
        ValueError: it is something else, or parts of one output overlap or lie along different axes.
    """
    if isinstance(given, tuple) and all(isinstance(one, Named) for one in given):
        return given
    if given is None:
        return ()
    try:
        words = _KINDS.validate_python(dict(given) if isinstance(given, Mapping) else given)
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        said = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise ValueError(": ".join([*map(str, error["loc"][1:2]), said])) from None
    each: dict[str, Word] = words if isinstance(words, dict) else {"": words}
    found = tuple(Named(Place.read(place), word) for place, word in each.items())
    for one, other in _pairs(found):
        if one[0] != other[0] or one[2] > other[1]:
            raise ValueError("parts of one output lie beside each other, along one axis")
    return found


def _pairs(found: tuple[Named, ...]) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Parts of one output and the next of them."""
    for path in {one.place.path for one in found}:
        parts = sorted(one.place.part for one in found if one.place.path == path and one.place.part is not None)
        yield from pairwise(parts)
