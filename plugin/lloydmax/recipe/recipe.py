"""The recipe: what to compress, what stays trainable, how to win the accuracy back. Pure, validated data."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.hooks.options import Refused, accepted, told
from lloydmax.recipe import checks
from lloydmax.recipe.choices import choices, in_words, suggestion
from lloydmax.recipe.lines import LinedData, Where, field_name
from lloydmax.recipe.plain import plain
from lloydmax.recipe.reading import read_lined
from lloydmax.recipe.schema import recipe_schema
from lloydmax.recipe.search import Search
from lloydmax.recipe.sections import KEEP, Activations, RecipeFields, Rule, Step, Storage, Synthesize
from lloydmax.recipe.space import Range, Space, attempts, put, taken_apart
from lloydmax.runtime.files import write_text
from lloydmax.runtime.text import quoted

_SECTIONS: dict[str, type[BaseModel]] = {
    "quantize": Rule,
    "activations": Activations,
    "recover": Step,
    "synthesize": Synthesize,
    "storage": Storage,
    "search": Search,
}


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
        return cls._of(read_lined(ready(source)))

    def changed(self, data: Mapping[str, Any]) -> Recipe:
        """A recipe of other data, which has the lines of this one where the places are the same.

        Raises:
            RecipeError: see :meth:`load`.
        """
        return self._of(LinedData(plain(data), self._document.origin, self._document.lines))

    @classmethod
    def _of(cls, document: LinedData) -> Recipe:
        if not isinstance(document.data, dict):
            raise RecipeError(f"{document.at(())}: a recipe is a mapping with 'quantize:' rules")
        try:
            data, space = taken_apart(document.data, cls, _SECTIONS)
        except Refused as refused:
            raise _problems(refused, document) from None
        recipe = cls._single(LinedData(data, document.origin, document.lines))
        for attempt in attempts(data, space, document):
            cls._single(attempt)
        recipe._document, recipe._space = document, space
        return recipe

    @classmethod
    def _single(cls, document: LinedData) -> Recipe:
        """A checked recipe whose fields have one value each."""
        try:
            recipe = accepted(cls, document.data, _SECTIONS)
        except Refused as refused:
            raise _problems(refused, document) from None
        recipe._document = document
        if problems := told(checks.problems(recipe), recipe.at()):
            raise RecipeError(problems)
        return recipe

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML, atomically.

        Raises:
            OutputError: the folder is missing or not writable, the disk is full.
        """
        data = self.data()
        ordered = {key: data[key] for key in type(self).model_fields if key in data}
        text = yaml.safe_dump(ordered, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
        write_text(path, text)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """A JSON schema (draft 2020-12) of recipes, with the options of every installed plugin."""
        return recipe_schema(cls, KEEP)

    def choices(self) -> dict[Where, list[Any] | Range]:
        """What a tuning loop chooses from: place -> a list of alternatives, or a range."""
        return choices(self)

    def space(self) -> Space:
        """The same; prints as a table, and tells all combinations (``grid``) or some at random (``draw``)."""
        return choices(self)

    def resolved(self, choices: Mapping[Any, Any]) -> Recipe:
        """The recipe with a value in place of each list and range that :meth:`choices` tells.

        Args:
            choices: value by place, as :meth:`choices` has it or in words (``"quantize[1].centroids"``); a list or
                group of values also as a study keeps it, in JSON. Those that are not named stay.

        Raises:
            RecipeError: no such choice, or a value that is not in its list or range.
        """
        known = self.choices()
        words = {field_name(where): where for where in known}
        data: Any = self.data()
        for key, value in choices.items():
            where = key if key in known else words.get(key)
            if where is None:
                name = key if isinstance(key, str) else field_name(key)
                raise RecipeError(
                    f"{name} is not a choice of recipe {self.name!r}{registry.spelling_hint(name, list(words))}"
                )
            among = known[where]
            if isinstance(value, str) and value not in among:
                value = in_words(among).get(value, value)
            if value not in among:
                told = f"within {among}" if isinstance(among, Range) else f"one of {quoted(among)}"
                raise RecipeError(f"{self.at(*where)}: {quoted(value)} is not {told}")
            data = put(data, where, value)
        return self.changed(data)

    def suggest(self, trial: Any) -> Recipe:
        """The recipe with every list and range decided by an Optuna trial: each is one parameter of the study.

        Args:
            trial: an ``optuna.Trial``, or anything with its ``suggest_...`` methods.

        Raises:
            RecipeError: the recipe has neither lists nor ranges.
        """
        return self.resolved(suggestion(self, trial))


def _problems(refused: Refused, document: LinedData) -> RecipeError:
    lines = (f"{document.at(where)}: {text}" for where, text in refused.problems)
    return RecipeError(told(lines, document.at(())))


def ready(source: str | Path | dict[str, Any]) -> str | Path | dict[str, Any]:
    """The path of a ready recipe, if ``source`` is the name of one."""
    if isinstance(source, str) and re.fullmatch(r"[\w-]{1,100}", source):
        try:
            folder = importlib.resources.files("lloydmax.recipes")
        except ModuleNotFoundError:  # of a copy that is not installed
            return source
        ready = Path(str(folder.joinpath(f"{source}.yaml")))
        return ready if ready.is_file() and not Path(source).exists() else source
    return source
