"""The JSON schema of recipes, with a description of every field taken from the docstrings of the code."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from lloydmax.hooks import registry


def recipe_schema(recipe: type[BaseModel], keep: str) -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of recipes, with the options of every installed plugin.

    Args:
        recipe: the model of a whole recipe.
        keep: the quantizer name that is reserved for leaving a parameter as it is.
    """
    schema = documented(recipe)
    for definition, key, kind in (("Rule", "quantizer", "quantizer"), ("Step", "step", "step")):
        base = schema["$defs"][definition]
        base.pop("additionalProperties", None)
        entries = [entry for entry in registry.strategies() if entry.kind == kind]
        base["properties"][key]["enum"] = [e.name for e in entries] + ([keep] if key == "quantizer" else [])
        base["allOf"] = []
        for entry in entries:
            options = documented(entry.options)
            schema["$defs"].update(options.pop("$defs", {}))
            properties = {name: _or_choice(part) for name, part in options["properties"].items()}
            default = base["properties"][key].get("default") == entry.name
            condition = {"properties": {key: {"const": entry.name}}, **({} if default else {"required": [key]})}
            base["allOf"].append(
                {"if": condition, "then": {"properties": properties, "required": options.get("required", [])}}
            )
        base["unevaluatedProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a pydantic model, described by ``Field(description=...)`` and by its docstrings.

    An ``Attributes:`` section (Google style) describes the fields by name, inherited ones in the class that has them;
    what stands before it describes the model.
    """
    return model.model_json_schema(by_alias=True, schema_generator=_Described)


def attributes(model: type) -> dict[str, str]:
    """What the ``Attributes:`` section of a class docstring says, by name, each as one line of text."""
    found: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(model.__dict__.get("__doc__") or "").partition("\nAttributes:\n")[2].splitlines():
        if line and not line.startswith(" "):
            break
        if start := re.match(r" {4}(\w+): (.*)", line):
            name = start[1]
            found[name] = start[2]
        elif name:
            found[name] += " " + line.strip()
    return {name: plain(text) for name, text in found.items()}


def summary(model: type) -> str:
    """A class docstring up to its ``Attributes:`` section."""
    return plain(inspect.cleandoc(model.__dict__.get("__doc__") or "").partition("\nAttributes:\n")[0])


def plain(text: str) -> str:
    """Docstring markup as Markdown: roles become the bare name, double backticks single ones."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text.strip())
    return text.replace("``", "`").rstrip()


class _Described(GenerateJsonSchema):
    def model_schema(self, schema: Any) -> dict[str, Any]:
        made: dict[str, Any] = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        told = {name: text for cls in reversed(model.__mro__) for name, text in attributes(cls).items()}
        for name, field in model.model_fields.items():
            part = made.get("properties", {}).get(field.alias or name)
            if part is None:
                continue
            if "description" not in part and name.rstrip("_") in told:
                part["description"] = told[name.rstrip("_")]
            if isinstance(value := field.get_default(call_default_factory=True), list) and not field.is_required():
                part["default"] = value
        if text := summary(model):
            made["description"] = text
        return made


def _or_choice(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}]}
