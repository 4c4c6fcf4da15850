"""Options and sections of a recipe: what people wrote, against the pydantic model that says what may stand there.

Beside what a model itself asks for, a number must be finite and a number, not a text or ``true`` that could be read as
one. So plugins need not ask for it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from lloydmax.runtime.text import printable, quoted

Place = tuple[str | int, ...]
_Model = TypeVar("_Model", bound=BaseModel)
_MOST_TOLD = 20
"""Problems that one message lists."""
_UNREAD = ("int_parsing", "int_parsing_size", "float_parsing")
_AS_TEXT = "must be a number, got the text {}: write it as a number, without quotes"


class Refused(ValueError):
    """Data do not fit their model.

    Attributes:
        problems: the place of each in the data, and what is wrong there.
    """

    def __init__(self, problems: list[tuple[Place, str]]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, where)) or 'options'}: {text}" for where, text in problems))
        self.problems = problems


def told(problems: Iterable[str], at: str) -> str:
    """One line for each problem; of very many, the first, and that there are more ``at`` this place."""
    lines = list(dict.fromkeys(islice(problems, _MOST_TOLD + 1)))
    return "\n".join([*lines[:_MOST_TOLD], *([f"{at}: more problems than these"] if len(lines) > _MOST_TOLD else [])])


def accepted(
    model: type[_Model], given: Mapping[str, Any], sections: Mapping[str, type[BaseModel]] | None = None,
    extra: Iterable[str] = (), changed: Iterable[str] | None = None,
) -> _Model:  # fmt: skip
    """Data as their model has them.

    Args:
        model: of options, of a section, or of a whole recipe.
        given: plain data.
        sections: models of parts that ``model`` does not tell itself, by key.
        extra: further keys that are known at this place, for hints.
        changed: keys whose values have not been accepted with this model before; ``None``: all.

    Raises:
        Refused: with its problems.
    """
    try:
        found = model.model_validate(given)
    except ValidationError as failure:
        problems = []
        for error in failure.errors(include_url=False)[: _MOST_TOLD + 1]:
            where = _place(error["loc"], given, error["type"] == "missing")
            inner = (sections or {}).get(str(where[0]), model) if len(where) > 1 else model
            problems.append((where, _problem(error, inner, where, extra)))
        raise Refused(problems) from None
    looked_at = given if changed is None else {key: given[key] for key in changed}
    if problems := list(islice(_misread(looked_at, found, ()), _MOST_TOLD + 1)):
        raise Refused(problems)
    return found


def _place(loc: tuple[str | int, ...], given: Any, missing: bool) -> Place:
    """Where in the data an error is: pydantic's place without the parts that only name a type."""
    where: list[str | int] = []
    for number, part in enumerate(loc):
        inside = part in given if isinstance(given, Mapping) else isinstance(part, int) and isinstance(given, list)
        if inside:
            given = given[part] if isinstance(given, Mapping) or part < len(given) else None  # type: ignore[operator]
        if inside or (missing and number == len(loc) - 1):
            where.append(part)
    return tuple(where)


def _problem(error: Any, model: type[BaseModel], where: Place, extra: Iterable[str]) -> str:
    """One pydantic error in words, with the nearest valid key."""
    if error["type"] == "extra_forbidden":
        inner = _section(model, where)
        known = [field.alias or name for name, field in inner.model_fields.items()]
        return f"unknown key{spelling_hint(str(where[-1]), [*known, *(extra if inner is model else ())])}"
    if error["type"] == "missing":
        return "is missing"
    message = printable(str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be "), 300)
    if error["type"] in _UNREAD and _is_number(error["input"]):
        return _AS_TEXT.format(quoted(error["input"]))
    if "Input should be" not in error["msg"]:
        return message
    hint = ""
    if error["type"] == "string_type" and isinstance(error["input"], (bool, int, float, type(None))):
        hint = "; put text that looks like something else in quotes"
    return f"must be {message}, got {quoted(error['input'])}{hint}"


def _section(model: type[BaseModel], where: Place) -> type[BaseModel]:
    """The model of the section that a key is in: ``model``, or one nested in it."""
    for part in where[:-1]:
        field = model.model_fields.get(str(part))
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return model


def _misread(given: Any, found: Any, where: Place) -> Iterator[tuple[Place, str]]:
    """Numbers and truths that pydantic has read out of something else, and numbers that are not finite."""
    if isinstance(found, BaseModel) and isinstance(given, Mapping):
        for name, field in type(found).model_fields.items():
            if (key := field.alias or name) in given:
                yield from _misread(given[key], getattr(found, name), (*where, key))
    elif isinstance(found, dict) and isinstance(given, Mapping):
        for key in found.keys() & given.keys():
            yield from _misread(given[key], found[key], (*where, key))
    elif isinstance(found, (list, tuple)) and isinstance(given, (list, tuple)) and len(found) == len(given):
        for index, (item, value) in enumerate(zip(given, found, strict=True)):
            yield from _misread(item, value, (*where, index))
    elif isinstance(found, bool):
        if isinstance(given, str):
            yield where, f"must be true or false, got the text {quoted(given)}: write it without quotes"
    elif isinstance(found, (int, float)):
        if isinstance(given, bool):
            yield where, f"must be a number, got {given}"
        elif isinstance(given, str) and _is_number(given):
            yield where, _AS_TEXT.format(quoted(given))
        elif not math.isfinite(found):
            yield where, f"must be a finite number, got {quoted(given)}"


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def spelling_hint(word: str, known: list[str]) -> str:
    """A hint for a misspelt word: the nearest known one, or all of them."""
    if close := difflib.get_close_matches(word, known, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known)) or 'none'}"
