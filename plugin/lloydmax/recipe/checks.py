"""What a recipe is checked for when it is loaded, beyond the types of its fields."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from pydantic import BaseModel

from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.hooks.options import Refused, accepted
from lloydmax.recipe.lines import Where
from lloydmax.recipe.sections import KEEP, RecipeFields, Rule
from lloydmax.recipe.space import is_choice
from lloydmax.runtime.text import printable, quoted

_MOST_LISTED = 1000
"""Entries of a list that is an option, or a choice of one."""


def problems(recipe: RecipeFields) -> Iterator[str]:
    """Everything wrong with a recipe whose fields have the right types, one message each, with file and line."""
    first = None
    for first in chain(_requirements(recipe), _option_problems(recipe)):
        yield first
    if first is None:
        yield from _order_problems(recipe)


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


def _requirements(recipe: RecipeFields) -> Iterator[str]:
    if recipe.requires:
        from packaging.requirements import InvalidRequirement, Requirement  # slow to import, and rarely needed
    for index, text in enumerate(recipe.requires):
        at, said = recipe.at("requires", index), quoted(text)
        try:
            requirement = Requirement(text)
            if requirement.url:
                raise InvalidRequirement("it is an address")
        except InvalidRequirement as error:
            reason = printable(str(error).partition("\n")[0])
            yield f"{at}: {said} is not a requirement such as 'lloydmax>=0.1': {reason}"
            continue
        wanted = printable(f"{requirement.name}{requirement.specifier}".replace("'", r"'\''"), 100)
        install = f"run: pip install '{wanted}'"
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{at}: {said} is not installed; {install}"
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield f"{at}: {said} is required, {found} is installed; {install}"


def _option_problems(recipe: RecipeFields) -> Iterator[str]:
    if recipe.bits is not None and recipe.storage.codes == "packed":
        yield f"{recipe.at('bits')}: needs codes of no fixed width: write 'storage: {{codes: entropy}}' or 'arithmetic'"
    if recipe.bits is not None and recipe.activations is not None:
        yield f"{recipe.at('bits')}: a model on int8 kernels has 8 bits a weight; leave 'activations' out"
    for index, rule in enumerate(recipe.quantize):
        if recipe.bits is not None and not _priced(rule):
            yield (
                f"{recipe.at('quantize', index)}: with 'bits' each quantizer chooses by the price of a bit, which "
                f"{quoted(rule.quantizer)} with these options does not: use kmeans, granularity tensor, "
                "block 1, no 'price'"
            )
        if rule.importance is not None:
            yield from _unknown(recipe, "importance", rule.importance, ("quantize", index, "importance"))
        if rule.quantizer == KEEP:
            for key in rule.options:
                yield f"{recipe.at('quantize', index, key)}: 'quantizer: {KEEP}' takes no options"
        else:
            yield from _check_options(
                recipe, "quantizer", rule.quantizer, rule.options, ("quantize", index), type(rule)
            )
    if recipe.search is not None:
        method, options, kind = recipe.search.method, recipe.search.options, type(recipe.search)
        yield from _check_options(recipe, "search method", method, options, ("search",), kind)
    for index, step in enumerate(recipe.recover):
        yield from _check_options(recipe, "step", step.step, step.options, ("recover", index), type(step))


def _priced(rule: Rule) -> bool:
    if rule.quantizer == KEEP:
        return True
    quantizers = {s.name: s.cls for s in registry.strategies() if s.kind == "quantizer"}
    plain = rule.options.get("granularity", "tensor") == "tensor" and rule.options.get("block", 1) == 1
    able = hasattr(quantizers.get(rule.quantizer), "rate") and plain and "price" not in rule.options
    return able or rule.quantizer not in quantizers


def _order_problems(recipe: RecipeFields) -> Iterator[str]:
    late = False
    for index, step in enumerate(recipe.recover):
        early = getattr(registry.find("step", step.step).cls, "before_fit", False)
        if early and late:
            yield (
                f"{recipe.at('recover', index)}: {step.step!r} changes the weights that the codebooks are fitted to; "
                "put it before the other steps"
            )
        late = late or not early


def _unknown(recipe: RecipeFields, kind: str, name: str, where: Where) -> list[str]:
    try:
        registry.find(kind, name, RecipeError)
    except RecipeError as error:
        return [f"{recipe.at(*where)}: {error}"]
    return []


def _check_options(
    recipe: RecipeFields, kind: str, name: str, options: dict[str, Any], where: Where, of: type[BaseModel]
) -> Iterator[str]:
    if unknown := _unknown(recipe, kind, name, (*where, kind.rpartition(" ")[2])):
        yield from unknown
        return
    if long := [key for key, value in options.items() if isinstance(value, list) and len(value) > _MOST_LISTED]:
        for key in long:
            yield f"{recipe.at(*where, key)}: a list of more than {_MOST_LISTED:,} values"
        return
    model, said = registry.find(kind, name).options, set()
    extra = [field.alias or key for key, field in of.model_fields.items()]
    for attempt, chosen, changed in _alternatives(options, model):
        try:
            accepted(model, attempt, extra=extra, changed=changed)
        except Refused as refused:
            for place, text in refused.problems:
                at = (*place[:1], *(chosen[key] for key in place[:1] if key in chosen), *place[1:])
                problem = f"{recipe.at(*where, *at)}: {text}"
                if problem not in said:
                    said.add(problem)
                    yield problem


def _alternatives(
    options: dict[str, Any], model: type[BaseModel]
) -> Iterator[tuple[dict[str, Any], dict[Any, int], Iterable[str]]]:
    """The options with each choice tried by each of its values (not their product: options are independent), which
    values these are, and the options that have not been tried with these values before."""
    choices = {
        name: value
        for name, value in options.items()
        if name in model.model_fields and is_choice(value, model.model_fields[name]) and value
    }
    first = {name: (choices[name][0] if name in choices else value) for name, value in options.items()}
    yield first, dict.fromkeys(choices, 0), options
    for name, values in choices.items():
        for index, value in enumerate(values[1:], start=1):
            yield {**first, name: value}, {**dict.fromkeys(choices, 0), name: index}, (name,)
