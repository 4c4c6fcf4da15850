"""The JSON schema of recipes, with the options of every installed plugin."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from lloydmax.hooks import registry


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
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _or_choice(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}]}
