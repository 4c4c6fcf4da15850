"""What a parameter is beside its values: pruned, padded, or no place for a codebook at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel
from torch import Tensor, nn

from lloydmax.codebook.layout import Layout, code_bits
from lloydmax.codebook.zeros import MANY_ZEROS, zero_share
from lloydmax.errors import RecipeError
from lloydmax.network.layers import Layer
from lloydmax.network.parameters import Owner, held_outside, padding_rows
from lloydmax.recipe.sections import KEEP

if TYPE_CHECKING:
    from lloydmax.plan.parameter import PlannedParameter
    from lloydmax.recipe.recipe import Recipe

REPAIR = "repair the model, or leave this parameter out of the rule"

_NAMED = 5
"""Parameters that a note lists."""


def with_zeros(options: BaseModel, weight: Tensor, layout: Layout, owners: Iterable[Owner]) -> BaseModel:
    """The options of a quantizer, which keep zeros where a parameter is pruned or has a row of zeros for padding.

    Args:
        options: those with a field ``zeros`` that says nothing are changed.
        weight: the parameter.
        layout: of its codebook.
        owners: all that have it.
    """
    if getattr(options, "zeros", "free") is not None or layout.centroids < 2:
        return options
    padded = any(bool((weight[row] == 0).all()) for row in padding_rows(owners).values())
    if padded or zero_share(weight, layout) >= MANY_ZEROS:
        return options.model_copy(update={"zeros": "keep"})
    return options


def baking_notes(computed: Mapping[str, str]) -> list[str]:
    """Which parameters are computed from others, and so ordinary ones in the compressed model; one note, if any.

    Args:
        computed: from :func:`lloydmax.network.baking.computed`.
    """
    found = [f"{name} ({how})" for name, how in computed.items()]
    if not found:
        return []
    return [
        f"{_listed(found)}: computed once, and ordinary parameters from then on; lloydmax.load takes the original "
        "architecture"
    ]


def structural_notes(
    model: nn.Module,
    recipe: Recipe,
    parameters: Mapping[str, PlannedParameter],
    owners: Mapping[int, Sequence[Owner]],
    broken: Mapping[int, str],
) -> tuple[list[str], list[str]]:
    """What becomes of zeros, of rows for padding, and of parameters that cannot have a codebook: all of it, and what
    people are to be warned of (not of empty parameters).

    Args:
        model: the uncompressed student.
        recipe: of the plan.
        parameters: that get codebooks.
        owners: of every parameter, by identity.
        broken: those that rules mean, from :func:`~lloydmax.network.parameters.unfit`.
    """
    weights = {name: model.get_parameter(name).detach() for name in parameters}
    notes = [
        f"{name}: row {row} (padding_idx) is not zero, so that it is compressed as the other rows are; make it zero, "
        "and it stays as it is"
        for each in owners.values()
        if each[0][0] in parameters
        for name, row in padding_rows(each).items()
        if bool((weights[each[0][0]][row] != 0).any())
    ]
    stay, go = _zeros(parameters.values(), weights, recipe.storage.codes == "packed")
    unfit = {key: f"{owners[key][0][0]} stays as it is: {why}" for key, why in broken.items()}
    told = [said for key, said in unfit.items() if model.get_parameter(owners[key][0][0]).numel()]
    return [*notes, *stay, *go, *unfit.values()], [*go, *(["; ".join(told)] if told else [])]


def refuse_held_outside(
    model: nn.Module, recipe: Recipe, chosen: Mapping[int, tuple[Layer, str, int]], broken: Collection[int]
) -> None:
    """Refuse to compress what the model also holds where no codebook would be seen.

    Args:
        model: the uncompressed student.
        recipe: of the plan.
        chosen: what rules mean, by identity: layer, name in it, number of the rule.
        broken: identities of those that stay as they are.

    Raises:
        RecipeError: names parameter and attribute.
    """
    for key, attribute in held_outside(model).items():
        layer, leaf, index = chosen.get(key, (None, "", 0))
        if layer is not None and key not in broken and recipe.quantize[index].quantizer != KEEP:
            name = f"{layer.name}.{leaf}".lstrip(".")
            raise RecipeError(
                f"{recipe.at('quantize', index)}: {name} is also held by the attribute {attribute!r}, which would not "
                f"see its codebook: use self.{name} in forward instead, or leave it out of the rule"
            )


def _zeros(
    parameters: Iterable[PlannedParameter], weights: Mapping[str, Tensor], packed: bool
) -> tuple[list[str], list[str]]:
    """What is to be said of the zeros that stay, and of those that do not though there are many."""
    stay: list[str] = []
    go: list[str] = []
    total = zeros = codes = mask = 0
    for p in parameters:
        wanted = getattr(p.options, "zeros", None)
        count = 0 if wanted == "free" else p.weights - int(weights[p.name].count_nonzero())
        whole = round(zero_share(weights[p.name], p.layout) * p.layout.codes) if wanted == "keep" else 0
        if whole:
            stay.append(p.name)
            total, zeros, codes = total + p.weights, zeros + whole * p.block, codes + p.layout.codes * p.layout.bits
            mask += p.layout.codes + (p.layout.codes - whole) * code_bits(p.centroids - 1)
        if count - whole * p.block >= MANY_ZEROS * p.weights and p.centroids > 1:
            go.append(f"{p.name} ({'blocks of several weights' if p.block > 1 else f'quantizer {p.quantizer!r}'})")
    if stay and packed:
        cost = (
            f"{-(-codes // 8):,} bytes of packed codes, where a mask and codes of the others would be {-(-mask // 8):,}"
        )
        cost += "; 'storage: {codes: entropy}' needs fewer than either" if mask < codes else ""
    else:
        cost = "no mask is needed, for entropy-coded codes spend least on what is most frequent"
    said = (
        [f"zeros stay in {_listed(stay)} ({zeros / total:.0%} of the weights), a centroid is 0: {cost}"] if stay else []
    )
    advice = "give it kmeans or uniform without 'block', or say 'zeros: free'"
    return said, [f"zeros of {_listed(go)} do not stay: {advice}"] if go else []


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
