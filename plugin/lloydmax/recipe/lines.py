"""YAML documents that remember on which line every value stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lloydmax.errors import RecipeError

Where = tuple[str | int, ...]
_MAX_NODES = 20_000
"""Values in a recipe."""
_MAX_BYTES = 4 << 20
"""Of a recipe file."""
_DEEPEST = 50
"""Lists and mappings within each other in a recipe."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that also reads ``1e-3`` as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


@dataclass
class LinedData:
    """Plain data, and the line of each value in it.

    Attributes:
        data: dicts, lists and scalars.
        origin: the file it was read from, or ``"recipe"``.
        lines: for the path of keys and indices to a value, its line (from 1); empty when it was given as a dict.
    """

    data: Any
    origin: str = "recipe"
    lines: dict[Where, int] = field(default_factory=dict)

    def at(self, where: Where) -> str:
        """Origin, line and field of a value (or of the nearest enclosing one that has a line)."""
        path = where
        while path and path not in self.lines:
            path = path[:-1]
        line = f":{self.lines[path]}" if path in self.lines else ""
        return f"{self.origin}{line}: {field_name(where)}"


def field_name(where: Where) -> str:
    """``("quantize", 0, "centroids")`` as people write it: ``quantize[1].centroids`` (counted from 1)."""
    text = ""
    for key in where:
        text += f"[{key + 1}]" if isinstance(key, int) else f".{key}"
    return text.lstrip(".") or "the whole document"


def read_lined(source: str | Path | dict[str, Any]) -> LinedData:
    """Read a YAML file, YAML text or a dict; only plain data, no tags, aliases or duplicate keys.

    Text with a line break, a colon followed by a space, or a brace is YAML; any other string is a path.

    Raises:
        RecipeError: no such file, not YAML, or something that plain data must not hold.
    """
    if isinstance(source, dict):
        return LinedData(source)
    text, origin = str(source), "recipe"
    if isinstance(source, Path) or not any(mark in text for mark in ("\n", ": ", "{")):
        path = Path(source)
        origin = str(path)
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise RecipeError(f"{origin}: larger than {_MAX_BYTES >> 20} MiB, so surely not a recipe")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"{origin}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise RecipeError(f"{origin}: not a text file in UTF-8") from None
    try:
        _check_events(text, origin)
        node = yaml.compose(text, Loader=_Loader)
        document = LinedData(None, origin)
        loader = _Loader("")
        document.data = _value(node, (), document, loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{origin}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    return document


def _check_events(text: str, origin: str) -> None:
    """Refuse aliases, and depths whose reading would take long, where they are met."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise RecipeError(f"{origin}: YAML aliases (*name) are not allowed; write the value out")
        if depth > _DEEPEST:
            line = f":{event.start_mark.line + 1}" if event.start_mark else ""
            raise RecipeError(f"{origin}{line}: nested more than {_DEEPEST} levels deep, so surely not a recipe")


def _value(node: yaml.Node | None, where: Where, document: LinedData, loader: yaml.SafeLoader) -> Any:
    if node is None:
        return None
    document.lines[where] = node.start_mark.line + 1
    if len(document.lines) > _MAX_NODES:
        raise RecipeError(f"{document.origin}: more than {_MAX_NODES} values, so surely not a recipe")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*where, index), document, loader) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node))
            if key in mapping:
                line = key_node.start_mark.line + 1
                raise RecipeError(f"{document.origin}:{line}: {field_name((*where, key))} is written twice")
            mapping[key] = _value(value_node, (*where, key), document, loader)
        return mapping
    return loader.construct_object(node)
