"""YAML text -> plain data with their lines, in bounded time, by the parser of libyaml where PyYAML has it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import yaml

from lloydmax.errors import RecipeError
from lloydmax.recipe.lines import LinedData, Where, place
from lloydmax.runtime.text import printable

_Parser = type[yaml.SafeLoader] | type[yaml.CSafeLoader]
FASTEST: _Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FURTHER, _FAR = 4096, 200_000
"""What libyaml refuses is read by PyYAML's own parser, too, which is slow, but takes a little more and says better what
is wrong: all of a text of less than ``_FAR`` characters, of a longer one so many behind the fault."""

_FAULTS = (yaml.YAMLError, ValueError, OverflowError)
"""What PyYAML raises; the last two of it come from escapes and versions that Python has no number for."""

_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLS = {
    spelled: value
    for word, value in (("yes", True), ("true", True), ("on", True), ("no", False), ("false", False), ("off", False))
    for spelled in (word, word.title(), word.upper())
}
_INTEGER = re.compile(r"([-+]?)(?:0b([01_]+)|0x([0-9a-fA-F_]+)|0([0-7_]+)|(0|[1-9][0-9_]*))")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*|(?=[eE])))(?:[eE][-+]?[0-9]+)?")
_BASES = (2, 16, 8, 10)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LONGEST = 100
"""Characters of a number."""


def parsed(text: str, origin: str, parser: _Parser = FASTEST) -> LinedData:
    """Plain data of YAML: no tags, aliases, keys that are not text, or duplicate keys; one document.

    Words are what YAML 1.1 takes them for (``yes`` is true, ``0x10`` is 16), but dates and clock times are text, and
    ``1e3`` is a number.

    Raises:
        RecipeError: not YAML, or not plain data, with line and field.
    """
    if (bad := yaml.reader.Reader.NON_PRINTABLE.search(text)) is not None:
        reading = _Reading(text[: bad.start()], origin, yaml.SafeLoader if bad.start() < _FAR else parser)
        with suppress(*_FAULTS):
            reading.run()
        at = place(origin, len((text[: bad.start()] + "x").splitlines()), reading.where)
        raise RecipeError(f"{at}: not valid YAML: the character {printable(bad[0])}")
    reading = _Reading(text, origin, parser)
    try:
        return reading.run()
    except RecipeError:
        raise
    except _FAULTS as error:
        mark = getattr(error, "problem_mark", None)
        if parser is not yaml.SafeLoader and len(text) < _FAR:
            return parsed(text, origin, yaml.SafeLoader)
        if parser is not yaml.SafeLoader and mark is not None and mark.index < _FAR:
            parsed(text[: mark.index + _FURTHER], origin, yaml.SafeLoader)
        at = reading.found.at(reading.where) if mark is None else place(origin, mark.line + 1, reading.where)
        problem = getattr(error, "problem", None) or "an escape or a version that there is not"
        raise RecipeError(f"{at}: not valid YAML: {printable(problem, 200)}") from None


class _Reading:
    """One pass over the events of a text.

    Attributes:
        found: so far.
        where: the value that is being read.
    """

    def __init__(self, text: str, origin: str, parser: _Parser) -> None:
        self.found = LinedData(None, origin, {(): 1})
        self.where: Where = ()
        self._events: Any = parser(text)

    def run(self) -> LinedData:
        """The data of the only document; ``None`` where there is none."""
        self._events.get_event()
        if self._events.check_event(yaml.StreamEndEvent):
            return self.found
        self._events.get_event()
        self.found.data = self._value(())
        self._events.get_event()
        if not self._events.check_event(yaml.StreamEndEvent):
            line = self._events.peek_event().start_mark.line + 1
            raise RecipeError(f"{place(self.found.origin, line, ())}: a second document ('---'); a recipe is one")
        return self.found

    def _value(self, where: Where) -> Any:
        event = self._event(where)
        if isinstance(event, yaml.ScalarEvent):
            self.found.admit(event.value, where)
            value = _scalar(event.value) if event.implicit[0] else event.value
            self.found.admit_scalar(value, where)
            return value
        self.found.admit(None, where)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(where)
        items: list[Any] = []
        while not self._events.check_event(yaml.SequenceEndEvent):
            items.append(self._value((*where, len(items))))
        self._events.get_event()
        return items

    def _mapping(self, where: Where) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not self._events.check_event(yaml.MappingEndEvent):
            event = self._event(where, key=True)
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse(where, event, "a key must be text, not a list or a mapping")
            if event.value in mapping:
                self._refuse((*where, event.value), event, "written twice")
            self.found.admit_scalar(event.value, where)
            mapping[event.value] = self._value((*where, event.value))
        self._events.get_event()
        return mapping

    def _event(self, where: Where, key: bool = False) -> Any:
        self.where = where
        event = self._events.get_event()
        if not key:
            self.found.lines[where] = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            name = printable(str(event.anchor), 100)
            self._refuse(where, event, f"YAML aliases (*{name}) are not allowed; write the value out")
        if event.tag is not None:
            tag = printable(event.tag, 100)
            self._refuse(where, event, f"not valid YAML in a recipe: the tag {tag}; leave tags out")
        return event

    def _refuse(self, where: Where, event: Any, text: str) -> None:
        raise RecipeError(f"{place(self.found.origin, event.start_mark.line + 1, where)}: {text}")


def _scalar(text: str) -> Any:
    """What a word without quotes means."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if (found := _INTEGER.fullmatch(text)) is not None:
        base, digits = next((base, part) for base, part in zip(_BASES, found.groups()[1:], strict=True) if part)
        digits = digits.replace("_", "")
        if len(digits) > _LONGEST:
            return 1 << _LONGEST
        return int(found[1] + digits, base) if digits else text
    if _NUMBER.fullmatch(text):
        return float(text.replace("_", ""))
    return float(text.replace(".", "")) if _NOT_FINITE.fullmatch(text) else text
