"""What a recipe is checked for when it is loaded, beyond the types of its fields."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import BaseModel, ValidationError

from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.recipe.choices import is_choice
from lloydmax.recipe.lines import Where
from lloydmax.recipe.sections import KEEP, RecipeFields, Rule


def problems(recipe: RecipeFields) -> list[str]:
    """Everything wrong with a recipe whose fields have the right types, one message each, with file and line."""
    return [*_requirements(recipe), *_option_problems(recipe)] or _order_problems(recipe)


def refuse_bits(recipe: RecipeFields, who: str) -> None:
    """Refuse a recipe that names the size of its file where there is no such file to aim at.

    Args:
        recipe: checked.
        who: cannot do it.

    Raises:
        RecipeError: the recipe has ``bits``.
    """
    if recipe.bits is not None:
        raise RecipeError(
            f"{recipe.at('bits')}: {who} cannot aim at the size of a file: leave 'bits' out, give 'centroids', or use "
            "lloydmax.compress or Intel Neural Compressor, which can"
        )


def _requirements(recipe: RecipeFields) -> list[str]:
    problems = []
    for index, text in enumerate(recipe.requires):
        at = recipe.at("requires", index)
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            problems.append(f"{at}: {text!r} is not a requirement such as 'lloydmax>=0.1': {error}")
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{at}: {text!r} is not installed; run: pip install {text!r}")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"{at}: {text!r} is required, {found} is installed; run: pip install {text!r}")
    return problems


def _option_problems(recipe: RecipeFields) -> list[str]:
    problems: list[str] = []
    if recipe.bits is not None and recipe.storage.codes != "entropy":
        problems.append(f"{recipe.at('bits')}: needs entropy-coded codes: write 'storage: {{codes: entropy}}'")
    if recipe.bits is not None and recipe.activations is not None:
        problems.append(f"{recipe.at('bits')}: a model on int8 kernels has 8 bits a weight; leave 'activations' out")
    for index, rule in enumerate(recipe.quantize):
        if recipe.bits is not None and not _priced(rule):
            problems.append(
                f"{recipe.at('quantize', index)}: with 'bits' each quantizer chooses by the price of a bit, which "
                f"{rule.quantizer!r} with these options does not: use kmeans, granularity tensor, block 1, no 'price'"
            )
        if rule.importance is not None:
            problems += _unknown(recipe, "importance", rule.importance, ("quantize", index, "importance"))
        if rule.quantizer == KEEP:
            problems += [
                f"{recipe.at('quantize', index, key)}: 'quantizer: {KEEP}' takes no options" for key in rule.options
            ]
        else:
            problems += _check_options(
                recipe, "quantizer", rule.quantizer, rule.options, ("quantize", index), type(rule)
            )
    if recipe.search is not None:
        method, options, kind = recipe.search.method, recipe.search.options, type(recipe.search)
        problems += _check_options(recipe, "search method", method, options, ("search",), kind)
    for index, step in enumerate(recipe.recover):
        problems += _check_options(recipe, "step", step.step, step.options, ("recover", index), type(step))
    return problems


def _priced(rule: Rule) -> bool:
    if rule.quantizer == KEEP:
        return True
    quantizers = {s.name: s.cls for s in registry.strategies() if s.kind == "quantizer"}
    plain = rule.options.get("granularity", "tensor") == "tensor" and rule.options.get("block", 1) == 1
    able = hasattr(quantizers.get(rule.quantizer), "rate") and plain and "price" not in rule.options
    return able or rule.quantizer not in quantizers


def _order_problems(recipe: RecipeFields) -> list[str]:
    early = [getattr(registry.find("step", step.step).cls, "before_fit", False) for step in recipe.recover]
    return [
        f"{recipe.at('recover', index)}: {step.step!r} changes the weights that the codebooks are fitted to; "
        "put it before the other steps"
        for index, step in enumerate(recipe.recover)
        if early[index] and not all(early[:index])
    ]


def _unknown(recipe: RecipeFields, kind: str, name: str, where: Where) -> list[str]:
    try:
        registry.find(kind, name, RecipeError)
    except RecipeError as error:
        return [f"{recipe.at(*where)}: {error}"]
    return []


def _check_options(
    recipe: RecipeFields, kind: str, name: str, options: dict[str, Any], where: Where, of: type[BaseModel]
) -> list[str]:
    if unknown := _unknown(recipe, kind, name, (*where, kind.rpartition(" ")[2])):
        return unknown
    model = registry.find(kind, name).options
    problems = []
    for attempt in _alternatives(options, model):
        try:
            model.model_validate(attempt)
        except ValidationError as failure:
            for error in failure.errors():
                place = (*where, *error["loc"])
                text = registry.problem(error, model, extra=list(of.model_fields))
                problems.append(f"{recipe.at(*place)}: {text}")
    return list(dict.fromkeys(problems))


def _alternatives(options: dict[str, Any], model: type[BaseModel]) -> list[dict[str, Any]]:
    """The options with each choice tried by each of its values (not their product: options are independent)."""
    choices = {
        name: value
        for name, value in options.items()
        if name in model.model_fields and is_choice(value, model.model_fields[name]) and value
    }
    first = {name: (choices[name][0] if name in choices else value) for name, value in options.items()}
    return [first, *({**first, name: value} for name, values in choices.items() for value in values[1:])]
