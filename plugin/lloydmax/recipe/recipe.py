"""The recipe: what to compress, what stays trainable, how to win the accuracy back. Pure, validated data."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.resources
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.recipe import checks
from lloydmax.recipe.checks import KEEP, is_choice
from lloydmax.recipe.lines import Document, Where, field_name, read_document
from lloydmax.recipe.search import Search
from lloydmax.recipe.sections import Activations, Rule, Step, Storage, _Section
from lloydmax.runtime.files import write_text


class Recipe(_Section):
    """A recipe: pure data that names no code and no path.

    Build one with :meth:`load`, which knows the lines of a file and checks the options of all plugins.

    Attributes:
        version: of the format.
        name: for plans, reports and messages.
        quantize: rules; for each parameter the last matching one wins.
        bits: size of the whole file, in bits for each parameter of the original. Codes are then entropy coded, and one
            price of a bit is found for all layers at which the file gets this size: layers get bits where the rules'
            ``importance`` says that these matter most; ``centroids`` is the most that a codebook may have.
        activations: 8-bit activations around all layers of the rules: the model then runs on int8 kernels.
        trainable: any of ``unquantized``, ``codebooks``, ``biases``, ``norms``, ``all``, ``none``, module names, globs.
        recover: recovery steps, in order.
        storage: how the file is written.
        search: what ``lloydmax search`` looks for.
        requires: distributions that must be installed, such as ``lloydmax>=0.1``, checked first.
        seed: of all randomness: the same recipe, data and seed give the same bytes on the same machine.
    """

    TRAINABLE: ClassVar[tuple[str, ...]] = ("unquantized", "codebooks", "biases", "norms", "all", "none")

    version: Literal[1] = 1
    name: str = Field(default="unnamed", max_length=200)
    quantize: list[Rule] = Field(min_length=1)
    bits: float | None = Field(default=None, gt=0, le=32)
    activations: Activations | None = None
    trainable: list[str] = Field(default_factory=lambda: ["unquantized"])
    recover: list[Step] = Field(default_factory=list)
    storage: Storage = Field(default_factory=Storage)
    search: Search | None = None
    requires: list[str] = Field(default_factory=list)
    seed: int = Field(default=0, ge=0, lt=2**63)

    _document: Document = PrivateAttr(default_factory=lambda: Document(None))

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
        document = read_document(_ready(source))
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

    def data(self) -> dict[str, Any]:
        """The recipe as plain data: what was written, without the defaults."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"version": self.version}

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML, atomically.

        Raises:
            OSError: the folder is missing or not writable.
        """
        data = self.data()
        ordered = {key: data[key] for key in type(self).model_fields if data.get(key) is not None}
        text = yaml.safe_dump(ordered, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
        write_text(path, text)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """A JSON schema (draft 2020-12) of recipes, with the options of every installed plugin."""
        from lloydmax.recipe.schema import recipe_schema

        return recipe_schema(cls, KEEP)

    def choices(self) -> dict[Where, list[Any]]:
        """The lists that stand where an option takes one value, for tuning loops: place -> alternatives."""
        found: dict[Where, list[Any]] = {}
        entries: list[tuple[Where, str, str, Rule | Step]] = [
            *((("quantize", n), "quantizer", rule.quantizer, rule) for n, rule in enumerate(self.quantize)),
            *((("recover", n), "step", step.step, step) for n, step in enumerate(self.recover)),
        ]
        for where, kind, name, entry in entries:
            fields = {} if name == KEEP else registry.find(kind, name, RecipeError).options.model_fields
            for key, value in entry.options.items():
                if key in fields and is_choice(value, fields[key]):
                    found[(*where, key)] = value
        return found

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
                raise RecipeError(f"{name} is no choice of recipe {self.name!r}{registry.nearest(name, list(words))}")
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
        from lloydmax.recipe.suggestion import suggestion

        return self.resolved(suggestion(self, trial))

    def at(self, *where: str | int) -> str:
        """File, line and field of a part of this recipe, for messages."""
        return self._document.at(where)


def _ready(source: str | Path | dict[str, Any]) -> str | Path | dict[str, Any]:
    """The path of a ready recipe, if ``source`` is the name of one."""
    if isinstance(source, str) and re.fullmatch(r"[\w-]+", source):
        ready = Path(str(importlib.resources.files("lloydmax.recipes").joinpath(f"{source}.yaml")))
        return ready if ready.is_file() and not Path(source).exists() else source
    return source


def _problems(failure: ValidationError, document: Document) -> list[str]:
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
