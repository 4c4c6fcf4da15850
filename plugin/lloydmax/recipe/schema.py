"""The JSON schema of recipes, with the options of every installed plugin."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from lloydmax.hooks import registry

_FIXED = ("version", "quantize", "recover", "search", "requires", "quantizer", "step")
"""Fields that say what else there may be."""
_CHOICES = {
    "type": "object",
    "properties": {"choices": {"type": "array", "minItems": 1}},
    "required": ["choices"],
    "additionalProperties": False,
}
_NUMBER = {"type": "number"}
_RANGE = {
    "type": "object",
    "properties": {"low": _NUMBER, "high": _NUMBER, "step": _NUMBER, "log": {"type": "boolean"}},
    "required": ["low", "high"],
    "additionalProperties": False,
}


def recipe_schema(recipe: type[BaseModel], keep: str) -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of recipes, with the options of every installed plugin.

    Args:
        recipe: the model of a whole recipe.
        keep: the quantizer name that is reserved for leaving a parameter as it is.
    """
    schema = recipe.model_json_schema()
    for definition, key, kind in (("Rule", "quantizer", "quantizer"), ("Step", "step", "step")):
        base = schema["$defs"][definition]
        base.pop("additionalProperties", None)
        entries = [entry for entry in registry.strategies() if entry.kind == kind]
        base["properties"][key]["enum"] = [e.name for e in entries] + ([keep] if key == "quantizer" else [])
        base["allOf"] = []
        for entry in entries:
            options = entry.options.model_json_schema()
            schema["$defs"].update(options.pop("$defs", {}))
            properties = {name: _or_choice(part) for name, part in options["properties"].items()}
            default = base["properties"][key].get("default") == entry.name
            condition = {"properties": {key: {"const": entry.name}}, **({} if default else {"required": [key]})}
            base["allOf"].append(
                {"if": condition, "then": {"properties": properties, "required": options.get("required", [])}}
            )
        base["unevaluatedProperties"] = False
    schema["$defs"] |= {"Range": _RANGE, "Choices": _CHOICES}
    for part in (schema, *(schema["$defs"][name] for name in ("Rule", "Step", "Activations", "Storage", "Synthesize"))):
        for name, field in part["properties"].items():
            if name not in _FIXED:
                part["properties"][name] = _or_choice(field)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _or_choice(schema: dict[str, Any]) -> dict[str, Any]:
    """What takes such a value, or a tuning loop's choices or range."""
    said = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    several = {"type": "array", "items": schema, "minItems": 1}
    return said | {"anyOf": [schema, several, {"$ref": "#/$defs/Choices"}, {"$ref": "#/$defs/Range"}]}
