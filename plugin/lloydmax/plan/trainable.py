"""Which parameters recovery may train: the recipe's ``trainable``, read for one model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from lloydmax.codebook.layout import FLOAT_DTYPES
from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.network.layers import Layer
from lloydmax.plan.globs import matches
from lloydmax.plan.parameter import PlannedParameter
from lloydmax.recipe.recipe import Recipe
from lloydmax.runtime.text import quoted


def trainable_names(
    recipe: Recipe,
    model: nn.Module,
    layers: list[Layer],
    parameters: Mapping[str, PlannedParameter],
    unfit: Collection[str] = (),
) -> set[str]:
    """The parameters that recovery may train, by name; the name of a compressed one stands for its centroids.

    Args:
        recipe: says what is trained.
        model: the uncompressed student.
        layers: of it.
        parameters: that get codebooks.
        unfit: names of parameters with infinities or NaN and of empty ones, which are never trained.

    Raises:
        RecipeError: a word of ``trainable`` that selects nothing, or a compressed parameter.
    """
    alias = {other: p.name for p in parameters.values() for other in p.tied}
    floats = {name for name, p in model.named_parameters() if p.dtype in FLOAT_DTYPES}
    every = {alias.get(name, name) for name in floats - set(unfit)}
    compressed = every & set(parameters)
    unquantized = every - compressed
    norms = {
        f"{la.name}.{leaf}".lstrip(".") for la in layers if la.norm for leaf in la.module._parameters
    } & unquantized
    biases = {name for name in unquantized if name.rpartition(".")[2].startswith("bias")}
    groups = {
        "unquantized": unquantized,
        "codebooks": compressed,
        "biases": biases,
        "norms": norms,
        "all": every,
        "none": set(),
    }
    chosen: set[str] = set()
    for index, word in enumerate(recipe.trainable):
        where, said = recipe.at("trainable", index), quoted(word)
        if word in groups:
            if word in ("biases", "norms", "codebooks") and not groups[word]:
                everything = word == "biases" and any(n.rpartition(".")[2].startswith("bias") for n in compressed)
                reason = "every bias has a codebook (add 'codebooks')" if everything else "the model has none"
                raise RecipeError(f"{where}: {word!r} selects nothing: {reason}")
            chosen |= groups[word]
            continue
        named = {name for name in every if matches(word, name) or _within(word, name)}
        if not named and any(matches(word, name) or _within(word, name) for name in floats):
            raise RecipeError(f"{where}: {said} has NaN or infinite values, or none, so that it cannot be trained")
        if not named:
            known = [*groups, *(name for name, _ in model.named_modules() if name)]
            raise RecipeError(f"{where}: {said} matches no parameter{registry.spelling_hint(word, known)[:300]}")
        if named <= compressed:
            rule = parameters[min(named)].rule
            raise RecipeError(
                f"{where}: {said} is compressed by {recipe.at('quantize', rule)}, so it is frozen; "
                "write 'codebooks' to train centroids, or leave it out of that rule"
            )
        chosen |= named & unquantized
    return chosen


def _within(pattern: str, name: str) -> bool:
    parts = name.split(".")
    return any(matches(pattern, ".".join(parts[:depth])) for depth in range(1, len(parts)))
