"""The reference of recipes as Markdown tables, from their JSON schema."""

from __future__ import annotations

import html
import inspect
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from lloydmax.hooks.registry import REGISTRIES, Registered
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.search import Budget, Search
from lloydmax.recipe.sections import Activations, Rule, Storage, Synthesize

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Each rule of `quantize`, with the options of its quantizer beside these", Rule),
    ("`activations`", Activations),
    ("`synthesize`", Synthesize),
    ("`storage`", Storage),
    ("`search`, with the options of its method beside these", Search),
    ("`search.budget`", Budget),
)


def markdown(strategies: Iterable[Registered]) -> str:
    """Tables of every field of a recipe: type and range, default, meaning.

    The fields of the recipe and of its rules stand open, everything else in ``<details>`` blocks: the other sections,
    and the options of each strategy by kind. Options that several strategies share have one block.

    Args:
        strategies: whose options to list, see :func:`lloydmax.hooks.registry.strategies`.
    """
    return "\n\n".join(_parts(list(strategies))) + "\n"


def _parts(strategies: list[Registered]) -> Iterator[str]:
    yield _table(Recipe)
    (title, rule), *rest = _SECTIONS
    yield f"{title}:\n\n{_table(rule)}"
    yield from (_folded(title, _first(model), _table(model)) for title, model in rest)
    shared = _shared(strategies)
    for kind in REGISTRIES:
        for entry in (entry for entry in strategies if entry.kind == kind):
            own = [name for name, owner in _owners(entry.options).items() if owner not in shared]
            others = [model for model in shared if issubclass(entry.options, model)]
            parts = [_table(entry.options, own)] if own else [] if others else ["No options."]
            parts += [f"{'Also' if own else 'All'} {_lower(_first(model))} (below)." for model in others]
            yield _folded(f"{kind} `{entry.name}`", _first(entry.cls), "\n\n".join(parts))
    yield from (_folded(_first(model).rstrip("."), "", _table(model)) for model in shared)


def _shared(strategies: list[Registered]) -> list[type[BaseModel]]:
    """The models from which the options of several strategies inherit, and those that are a section of one."""
    used = Counter(owner for entry in strategies for owner in dict.fromkeys(_owners(entry.options).values()))
    nested = (model for entry in strategies for model in _nested(entry.options))
    return list(dict.fromkeys([*(model for model, count in used.items() if count > 1), *nested]))


def _owners(options: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """For each field, as recipes spell it, the class that has it."""
    classes = [cls for cls in options.__mro__ if issubclass(cls, BaseModel)]
    return {
        field.alias or name: next(cls for cls in classes if name in inspect.get_annotations(cls))
        for name, field in options.model_fields.items()
    }


def _nested(options: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in options.model_fields.values():
        for kind in getattr(field.annotation, "__args__", (field.annotation,)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield kind


def _table(model: type[BaseModel], only: list[str] | None = None) -> str:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    lines = ["| field | value | default | meaning |", "|---|---|---|---|"]
    for name, part in schema.get("properties", {}).items():
        if only is None or name in only:
            default = "required" if name in required else _default(part)
            cells = (f"`{name}`", _kind(part), default, part.get("description", "").rstrip("."))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _kind(part: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if options := part.get("anyOf") or part.get("oneOf"):
        kinds = [_kind(option) for option in options if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in part or "const" in part:
        return ", ".join(f"`{value}`" for value in part.get("enum", [part.get("const")]))
    if "$ref" in part:
        return "section"
    kind = part.get("type", "anything")
    if kind == "object" and "additionalProperties" in part:
        return "mapping"
    if kind == "array":
        return f"list of {_kind(part.get('items', {}))}".replace("list of section", "list of sections")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {_number(part[key])}" for key, sign in signs.items() if key in part]
    word = {"string": "text", "boolean": "`true`, `false`"}.get(kind, kind)
    return f"{word} {', '.join(limits)}".rstrip()


def _number(value: float) -> str:
    large = isinstance(value, int) and value > 1 << 20 and value & (value - 1) == 0
    whole = f"{int(value):,}" if float(value).is_integer() and abs(value) < 1 << 53 else f"{value:g}"
    return f"2^{int(value).bit_length() - 1}" if large else whole


def _default(part: dict[str, Any]) -> str:
    value = part.get("default")
    return f"`{value if isinstance(value, str) else json.dumps(value)}`" if "default" in part else ""


def _folded(title: str, text: str, body: str) -> str:
    shown = f"{title}: {_lower(text)}" if text else title
    shown = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(shown, quote=False))
    return f"<details><summary>{shown}</summary>\n\n{body}\n\n</details>"


def _first(model: type) -> str:
    """The first paragraph of a class docstring, as Markdown: roles become bare names, double backticks single ones."""
    text = inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".") if text[1:2].islower() else text.rstrip(".")
