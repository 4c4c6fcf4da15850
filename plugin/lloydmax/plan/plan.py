"""The plan: what a recipe means for every parameter of a model, before any work is done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.codebook.blocks import Blocks
from lloydmax.codebook.layout import FLOAT_DTYPES, Layout
from lloydmax.errors import FitError, PlanMismatchError, RecipeError
from lloydmax.format import packing
from lloydmax.format.sizes import predicted_size
from lloydmax.hooks import registry
from lloydmax.network.baking import copied, plain
from lloydmax.network.folding import fold_batch_norms
from lloydmax.network.layers import Layer, layers_of
from lloydmax.network.parameters import Owner, not_finite, owners
from lloydmax.plan.parameter import PlannedParameter
from lloydmax.plan.selection import select
from lloydmax.plan.structure import REPAIR, baking_notes, structural_notes, with_zeros
from lloydmax.plan.table import plan_table
from lloydmax.plan.trainable import trainable_names
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.sections import KEEP, Rule
from lloydmax.runtime.text import percent, render, size
from lloydmax.student.attachment import codebooks

_SAMPLE = 1 << 16
"""Weights whose distinct values are counted first."""
_CODED_SAMPLE = 1 << 20
"""Weights of a parameter from which the length of its entropy-coded codes is foretold."""


@dataclass(frozen=True)
class Plan:
    """What happens to every parameter. ``print(plan)`` is a table.

    Attributes:
        recipe: the recipe it was made from.
        model: class name of the model.
        parameters: the parameters that get a codebook, by name, in forward order.
        trainable: names of the parameters that recovery may train (``name`` of a compressed one: its centroids).
        total_weights: number of parameters of the model, tied ones once.
        original_bytes: bytes of all parameters and persistent buffers of the model, tied ones once.
        predicted_bytes: size of the file that :func:`lloydmax.save` will write.
    """

    recipe: Recipe
    model: str
    parameters: dict[str, PlannedParameter]
    trainable: frozenset[str]
    total_weights: int
    original_bytes: int
    predicted_bytes: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def reduction(self) -> float:
        """Predicted share of the original bytes that is saved, 0 to 1."""
        return 1 - self.predicted_bytes / self.original_bytes

    @property
    def code_reduction(self) -> float:
        """The same, counting only fixed-width codes, float32 codebooks and float32 for the rest.

        This is the accounting in which the configurations of Thonglek et al. (IJCNN 2020) give 72.9 % for
        VGG-16 and 59.4 to 59.6 % for ResNet-50: no header, no buffers.
        """
        kept = self.total_weights - sum(p.weights for p in self.parameters.values())
        coded = sum(p.code_bytes + 4 * p.codebook_values for p in self.parameters.values())
        return 1 - (coded + 4 * kept) / (4 * self.total_weights)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One plain dict per compressed parameter, for tables and JSON."""
        for p in self.parameters.values():
            yield {
                "parameter": p.name,
                "layer": p.number,
                "type": p.layer,
                "shape": list(p.shape),
                "centroids": p.centroids,
                "granularity": p.granularity,
                "block": p.block,
                "bits": p.layout.bits_per_weight,
                "bytes": p.code_bytes + p.codebook_bytes(self.recipe.storage),
                "trained": p.name in self.trainable,
            }

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return {
            "recipe": self.recipe.name,
            "model": self.model,
            "original_bytes": self.original_bytes,
            "predicted_bytes": self.predicted_bytes,
            "reduction": self.reduction,
            "parameters": list(self.rows()),
            "trainable": sorted(self.trainable),
            "notes": self.notes,
        }

    def __str__(self) -> str:
        kept = self.total_weights - sum(p.weights for p in self.parameters.values())
        trained = len(self.trainable - set(self.parameters))
        summary = (
            f"{kept:,} other weights stay floats, {trained} tensors of them trained\n"
            f"{self.model}: {size(self.original_bytes)} -> {size(self.predicted_bytes)}, "
            f"{percent(self.reduction)} smaller ({self.original_bytes / self.predicted_bytes:.1f} times)"
        )
        return render(plan_table(f"Plan of recipe {self.recipe.name!r}", summary, self.rows()))


def plan(model: nn.Module, recipe: Any, example_inputs: Any = None) -> Plan:
    """Work out what a recipe means for a model; the model is not changed and no data is needed.

    Args:
        model: any module; parameters on any device.
        recipe: anything that :meth:`Recipe.load` takes.
        example_inputs: a tensor, tuple or dict; then layers are numbered in forward order, else in the order in
            which the model registers them.

    Raises:
        RecipeError: invalid recipe; a pattern, type or range that matches nothing; a list where one value must be
            chosen; a rule that contradicts ``trainable``; a parameter that is not a floating tensor.
    """
    recipe = Recipe.load(recipe)
    for where, values in recipe.choices().items():
        raise RecipeError(
            f"{recipe.at(*where)}: {values} is a choice for a tuning loop; write one value here, or let a search "
            "or tuning loop choose"
        )
    changed = _restructured(model, recipe)
    found = plan_as_is(changed, recipe, example_inputs)
    if changed is model:
        return found
    notes = found.notes + baking_notes(model)
    return replace(found, total_weights=_total_weights(model), original_bytes=_original_bytes(model), notes=notes)


def _restructured(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The model, or a copy in which parameters are baked, and folded what the recipe's steps before the fit fold."""
    steps = [registry.make("step", step.step, step.options, RecipeError) for step in recipe.recover]
    changes = [step.restructure for step in steps if hasattr(step, "restructure")]
    if recipe.activations:
        changes.append(fold_batch_norms)
    changed = plain(model)
    if not changes:
        return changed
    changed = copied(changed)
    for change in changes:
        change(changed)
    return changed


def plan_as_is(model: nn.Module, recipe: Recipe, example_inputs: Any = None, like: Plan | None = None) -> Plan:
    """:func:`plan` for a model that is already in the structure that the recipe gives it.

    Args:
        model: the uncompressed student.
        recipe: without choices.
        example_inputs: see :func:`plan`.
        like: the plan of the original, whose totals are kept.
    """
    if held := codebooks(model):
        raise RecipeError(f"the model already holds codebooks (for example {next(iter(held))}): pass the original")
    layers = layers_of(model, example_inputs)
    if not layers:
        raise RecipeError(f"{type(model).__name__} has no parameters: nothing to compress")
    numbers = {layer.name: n for n, layer in enumerate((la for la in layers if la.numbered), start=1)}
    places, broken = owners(model), not_finite(model)
    winners: dict[int, tuple[Layer, str, int]] = {}
    for index, rule in enumerate(recipe.quantize):
        for layer, leaf in select(layers, rule, index, recipe):
            key = id(layer.module._parameters[leaf])
            if key in broken and rule.quantizer != KEEP and layer.name in rule.selectors:
                raise RecipeError(f"{recipe.at('quantize', index)}: {places[key][0][0]}: {broken[key]}; {REPAIR}")
            winners[key] = (layer, leaf, index)
    parameters: dict[str, PlannedParameter] = {}
    for key, (layer, leaf, index) in winners.items():
        rule = recipe.quantize[index]
        if rule.quantizer != KEEP and key not in broken:
            planned = _planned(layer, leaf, index, rule, recipe, places[key], numbers)
            parameters[planned.name] = planned
    if winners and set(winners) <= set(broken):
        raise RecipeError(f"nothing to compress: {places[key][0][0]}: {broken[key]}; {REPAIR}")
    order = {layer.name: n for n, layer in enumerate(layers)}
    parameters = dict(sorted(parameters.items(), key=lambda item: order[item[0].rpartition(".")[0]]))
    notes = _overridden(recipe, {index for _, _, index in winners.values()})
    notes += structural_notes(model, recipe, parameters, places, broken, told=like is not None)
    unfit = {name for key in broken for name, _, _ in places[key]}
    trainable = trainable_names(recipe, model, layers, parameters, unfit)
    draft = Plan(
        recipe,
        type(model).__name__,
        parameters,
        frozenset(trainable),
        _total_weights(model) if like is None else like.total_weights,
        _original_bytes(model) if like is None else like.original_bytes,
        notes=notes,
    )
    if recipe.bits is not None:
        return replace(draft, predicted_bytes=round(recipe.bits * draft.total_weights / 8))
    records = {p.name: p.record() for p in parameters.values()}
    streams = {}
    if recipe.storage.codes == "entropy":
        streams = {p.name: _expected_stream(p, model.get_parameter(p.name).detach()) for p in parameters.values()}
    size = predicted_size(model, records, recipe.data(), recipe.storage, streams)
    return replace(draft, predicted_bytes=size)


def verify_plan(plan: Plan, model: nn.Module) -> None:
    """Prove that what the plan says is what the model holds.

    Args:
        plan: from :func:`plan`.
        model: the student, in training or finished.

    Raises:
        PlanMismatchError: names every parameter that is not compressed, has another shape, number of centroids or
            granularity, or that is compressed though the plan leaves it alone.
    """
    held = codebooks(model)
    problems = []
    for p in plan.parameters.values():
        for name in (p.name, *p.tied):
            codebook = held.pop(name, None)
            if codebook is None:
                problems.append(f"{name} is not compressed")
            elif codebook.shape != p.shape:
                problems.append(f"{name} has shape {codebook.shape}, planned {p.shape}")
            elif not p.layout.fits(codebook.layout):
                problems.append(f"{name} has {codebook.layout}, planned {p.layout}")
    problems += [f"{name} is compressed, which was not planned" for name in held]
    if problems:
        raise PlanMismatchError("the model does not hold what the plan says: " + "; ".join(problems))


def _planned(
    layer: Layer, leaf: str, index: int, rule: Rule, recipe: Recipe, owned: list[Owner], numbers: dict[str, int]
) -> PlannedParameter:
    parameter, names = layer.module._parameters[leaf], [name for name, _, _ in owned]
    assert parameter is not None
    where = recipe.at("quantize", index)
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise RecipeError(f"{where}: {names[0]} is lazy; run the model once before compressing it")
    if parameter.dtype not in FLOAT_DTYPES or parameter.numel() == 0:
        raise RecipeError(
            f"{where}: {names[0]} is {parameter.dtype} of shape {tuple(parameter.shape)}; only "
            "non-empty float32, float16 and bfloat16 parameters can be compressed"
        )
    entry = registry.find("quantizer", rule.quantizer, RecipeError)
    options = entry.options.model_validate(rule.options)
    wanted = int(getattr(options, "centroids", 0))
    if wanted < 1:
        raise RecipeError(f"{where}: quantizer {rule.quantizer!r} does not say how many centroids it gives")
    granularity = str(getattr(options, "granularity", "tensor"))
    axis = 1 if getattr(layer.module, "transposed", False) and leaf == "weight" else 0
    if parameter.dim() == 0:
        granularity = "tensor"
    even, block = bool(getattr(entry.cls, "even", False)), int(getattr(options, "block", 1))
    try:
        layout = Layout(tuple(parameter.shape), wanted, granularity, axis, block)
    except FitError as error:
        where = recipe.at("quantize", index, "block" if block > 1 else "granularity")
        hint = f"; or leave it scalar by a later rule for {layer.name!r} without 'block'" if block > 1 else ""
        raise RecipeError(f"{where}: {names[0]}: {error}{hint}") from None
    return PlannedParameter(
        name=names[0],
        tied=tuple(names[1:]),
        layer=layer.types[0],
        number=numbers.get(layer.name),
        layout=layout if even else layout.with_centroids(most_centroids(parameter.detach(), layout)),
        dtype=parameter.dtype,
        quantizer=rule.quantizer,
        options=with_zeros(options, parameter.detach(), layout, owned),
        rule=index,
        importance=rule.importance,
        even=even,
    )


def most_centroids(weight: Tensor, layout: Layout) -> int:
    """How many centroids one codebook can have: the layout's, or the number of distinct values if that is less.

    A strided sample decides quickly for ordinary weights; all values are looked at only where it has few.
    """
    wanted = layout.centroids
    if layout.block > 1:
        return max(int(Blocks(group).distinct(wanted).max()) for group in layout.groups(weight))
    if layout.codebooks > 1:
        most = 0
        for group in layout.groups(weight):
            for values in group:
                most = max(most, int(values.reshape(-1).unique().numel()))
                if most >= wanted:
                    return wanted
        return most
    flat = weight.reshape(-1)
    sample = flat[:: max(1, flat.numel() // _SAMPLE)].unique()
    if sample.numel() > wanted:
        return wanted
    return min(wanted, int(flat.unique().numel()))


def _expected_stream(p: PlannedParameter, weight: Tensor) -> int:
    """Bytes of the entropy-coded codes, from fitting the weight, or evenly spaced channels of a large one;
    codes of blocks, which gain little, count as packed."""
    if p.block > 1:
        return p.code_bytes
    channels = weight.movedim(p.axis, 0) if weight.dim() else weight.reshape(1)
    sample = channels[:: max(1, weight.numel() // _CODED_SAMPLE)]
    if not bool(torch.isfinite(sample).all()):
        return p.code_bytes
    codebook = registry.make("quantizer", p.quantizer, p.options).fit(sample.contiguous())
    coded = len(packing.entropy_encode(codebook.codes, codebook.bits))
    return round(coded * weight.numel() / sample.numel())


def _overridden(recipe: Recipe, winning: set[int]) -> list[str]:
    notes = [
        f"{recipe.at('quantize', index)}: every parameter of this rule is taken by a later rule"
        for index in range(len(recipe.quantize))
        if index not in winning
    ]
    for note in notes:
        warnings.warn(note, stacklevel=3)
    return notes


def _total_weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _original_bytes(model: nn.Module) -> int:
    tensors = {id(t): t for t in (*model.parameters(), *_persistent_buffers(model))}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _persistent_buffers(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield buffer


__all__ = ["Plan", "PlannedParameter", "plan", "verify_plan"]
