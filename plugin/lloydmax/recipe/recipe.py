"""The recipe: what to compress, what stays trainable, how to win the accuracy back. Pure, validated data."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.resources
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.recipe import checks
from lloydmax.recipe.choices import choices, suggestion
from lloydmax.recipe.lines import LinedData, Where, field_name, read_lined
from lloydmax.recipe.schema import recipe_schema
from lloydmax.recipe.search import Search
from lloydmax.recipe.sections import KEEP, Activations, RecipeFields, Rule, Step, Storage
from lloydmax.runtime.files import write_text


class Recipe(RecipeFields):
    """A recipe: pure data that names no code and no path.

    Build one with `load`, which knows the lines of a file and checks the options of all plugins.
    """

    @classmethod
    def load(cls, source: str | Path | dict[str, Any] | Recipe) -> Recipe:
        """Read and check a recipe.

        Args:
            source: a path, YAML text, a dict, the name of a ready recipe (``"vgg16-ijcnn2020"``), or a recipe,
                which is returned as it is.

        Raises:
            RecipeError: every problem found, one a line: file, line, field, what is wrong, the nearest spelling.
        """
        if isinstance(source, Recipe):
            return source
        document = read_lined(ready(source))
        if not isinstance(document.data, dict):
            raise RecipeError(f"{document.origin}: a recipe is a mapping with 'quantize:' rules")
        try:
            recipe = cls.model_validate(document.data)
        except ValidationError as failure:
            raise RecipeError("\n".join(_problems(failure, document))) from None
        recipe._document = document
        if problems := checks.problems(recipe):
            raise RecipeError("\n".join(problems))
        return recipe

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML, atomically.

        Raises:
            OutputError: the folder is missing or not writable, the disk is full.
        """
        data = self.data()
        ordered = {key: data[key] for key in type(self).model_fields if data.get(key) is not None}
        text = yaml.safe_dump(ordered, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
        write_text(path, text)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """A JSON schema (draft 2020-12) of recipes, with the options of every installed plugin."""
        return recipe_schema(cls, KEEP)

    def choices(self) -> dict[Where, list[Any]]:
        """The lists that stand where an option takes one value, for tuning loops: place -> alternatives."""
        return choices(self)

    def resolved(self, choices: Mapping[Any, Any]) -> Recipe:
        """The recipe with a value in place of each list that :meth:`choices` tells.

        Args:
            choices: value by place, as :meth:`choices` has it or in words (``"quantize[1].centroids"``). Lists that
                are not named stay.

        Raises:
            RecipeError: no such choice, or a value that is not in its list.
        """
        known = self.choices()
        words = {field_name(where): where for where in known}
        data = copy.deepcopy(self.data())
        for key, value in choices.items():
            where = key if key in known else words.get(key)
            if where is None:
                name = key if isinstance(key, str) else field_name(key)
                raise RecipeError(
                    f"{name} is not a choice of recipe {self.name!r}{registry.spelling_hint(name, list(words))}"
                )
            if value not in known[where]:
                raise RecipeError(f"{self.at(*where)}: {value!r} is not one of {known[where]}")
            *path, option = where
            entry: Any = data
            for part in path:
                entry = entry[part]
            entry[option] = value
        return Recipe.load(data)

    def suggest(self, trial: Any) -> Recipe:
        """The recipe with every list decided by an Optuna trial: each is one categorical parameter of the study.

        Args:
            trial: an ``optuna.Trial``, or anything with ``suggest_categorical(name, values)``.

        Raises:
            RecipeError: the recipe has no lists.
        """
        return self.resolved(suggestion(self, trial))


def ready(source: str | Path | dict[str, Any]) -> str | Path | dict[str, Any]:
    """The path of a ready recipe, if ``source`` is the name of one."""
    if isinstance(source, str) and re.fullmatch(r"[\w-]+", source):
        ready = Path(str(importlib.resources.files("lloydmax.recipes").joinpath(f"{source}.yaml")))
        return ready if ready.is_file() and not Path(source).exists() else source
    return source


def _problems(failure: ValidationError, document: LinedData) -> list[str]:
    lines = []
    for error in failure.errors():
        where = tuple(part for part in error["loc"] if part not in ("str", "int") and "[" not in str(part))
        sections: dict[str, type[BaseModel]] = {
            "quantize": Rule,
            "activations": Activations,
            "recover": Step,
            "storage": Storage,
            "search": Search,
        }
        model = sections.get(str(where[0]), Recipe) if len(where) > 1 else Recipe
        lines.append(f"{document.at(where)}: {registry.problem(error, model)}")
    return list(dict.fromkeys(lines))
