"""The plan: what a recipe means for every parameter of a model, before any work is done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lloydmax.codebook.layout import Layout
from lloydmax.errors import FitError, PlanMismatchError, RecipeError
from lloydmax.format.sizes import predicted_size
from lloydmax.hooks import registry
from lloydmax.hooks.units import BudgetError
from lloydmax.network.baking import computed, copied
from lloydmax.network.folding import fold_batch_norms
from lloydmax.network.layers import Layer
from lloydmax.network.parameters import Owner, owners, promote, unfit
from lloydmax.network.private import original, private, unwrapped
from lloydmax.network.products import Along
from lloydmax.plan.order import ordered_layers
from lloydmax.plan.parameter import PlannedParameter
from lloydmax.plan.prediction import expected_stream, most_centroids
from lloydmax.plan.reduced_range import reduced
from lloydmax.plan.selection import select
from lloydmax.plan.skipped import Skipped, notes, skipped, warning
from lloydmax.plan.structure import REPAIR, baking_notes, refuse_held_outside, structural_notes, with_zeros
from lloydmax.plan.table import MOST, plan_table
from lloydmax.plan.tables import for_table
from lloydmax.plan.trainable import trainable_names
from lloydmax.recipe.choices import refuse_choices
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.sections import KEEP, Rule
from lloydmax.runtime.modes import own_modes
from lloydmax.runtime.text import paragraphs, percent, render, size
from lloydmax.student.attachment import codebooks

_NAMED = 3
"""Skipped weights that a message about the size names."""


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
        overridden: rules of which nothing is left, in words.
        skipped: weights of 1 % or more of the model that a recipe for the whole model leaves as they are.
        structure: what becomes of zeros, rows for padding, computed parameters, what cannot have a codebook, in words.
        warned: what of this people are warned of.
        outputs: what counts in what the model returns, and what it tells, in words; empty where no data was seen.
    """

    recipe: Recipe
    model: str
    parameters: dict[str, PlannedParameter]
    trainable: frozenset[str]
    total_weights: int
    original_bytes: int
    predicted_bytes: int = 0
    overridden: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    structure: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What is worth knowing besides: rules without effect, and why large weights are skipped."""
        return [*self.overridden, *notes(self.skipped), *self.structure]

    @property
    def reduction(self) -> float:
        """Predicted share of the original bytes that is saved, 0 to 1."""
        return 1 - self.predicted_bytes / self.original_bytes

    @property
    def code_reduction(self) -> float:
        """The same, counting only fixed-width codes, float32 codebooks and float32 for the rest: no header, no buffers.
        So the configurations of Thonglek et al. (IJCNN 2020) give 72.9 % for VGG-16, 59.4 to 59.6 % for ResNet-50.
        """
        kept = self.total_weights - sum(p.weights for p in self.parameters.values())
        coded = sum(p.code_bytes + 4 * p.codebook_values for p in self.parameters.values())
        return 1 - (coded + 4 * kept) / (4 * self.total_weights)

    def room(self, model: nn.Module) -> int:
        """Bytes that ``bits`` leave for codes, at most.

        Args:
            model: that the plan was made for; buffers that get codebooks may still be buffers.

        Raises:
            BudgetError: there are none: what is not compressed takes them all.
        """
        least = {p.name: p.with_centroids(1).record() for p in self.parameters.values()}
        size = predicted_size(model, least, self.recipe.data(), self.recipe.storage, dict.fromkeys(least, 0))
        if size < self.predicted_bytes:
            return self.predicted_bytes - size
        larger = sorted((one for one in self.skipped if not one.expected), key=lambda one: -one.share)
        large = [one.name for one in larger if one.rule][:_NAMED]
        fixed = [f"{one.name}: {one.reason}" for one in larger if not one.rule][:_NAMED]
        raise BudgetError(
            f"{self.recipe.at('bits')}: at {self.recipe.bits:g} bits a weight the file may have "
            f"{self.predicted_bytes} bytes, which what is not compressed fills alone ({size} without any code"
            f"{'; ' * bool(fixed)}{', '.join(fixed)}): give more bits, compress more parameters "
            f"({', '.join(large) or 'embeddings, for example'}), or store floats as float16"
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """One plain dict for each compressed parameter."""
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
        """As JSON-able data."""
        return {
            "recipe": self.recipe.name,
            "model": self.model,
            "original_bytes": self.original_bytes,
            "predicted_bytes": self.predicted_bytes,
            "reduction": self.reduction,
            "parameters": list(self.rows()),
            "trainable": sorted(self.trainable),
            "notes": self.notes,
            "outputs": list(self.outputs),
        }

    def __str__(self) -> str:
        kept = self.total_weights - sum(p.weights for p in self.parameters.values())
        trained = len(self.trainable - set(self.parameters))
        summary = (
            f"{kept:,} other weights stay floats, {trained} tensors of them trained\n"
            f"{self.model}: {size(self.original_bytes)} -> {size(self.predicted_bytes)}, "
            f"{percent(self.reduction)} smaller ({self.original_bytes / self.predicted_bytes:.1f} times)"
        )
        summary += MOST if self.recipe.bits is not None else ""
        summary += f"\nOutputs: {', '.join(self.outputs)}" if self.outputs else ""
        table = render(plan_table(f"Plan of recipe {self.recipe.name!r}", summary, self.rows()))
        return "\n\n".join([table, paragraphs(self.notes)]) if self.notes else table


def plan(model: nn.Module, recipe: Any, example_inputs: Any = None) -> Plan:
    """Work out what a recipe means for a model; the model is not changed and no data is needed. Warns once of large
    weights that a recipe for the whole model leaves as they are.

    Args:
        model: any module; parameters on any device.
        recipe: anything that :meth:`Recipe.load` takes.
        example_inputs: a tensor, tuple or dict; then layers are numbered in forward order, else in the order in
            which the model registers them.

    Raises:
        ModelError: a model that cannot be compressed as it is.
        RecipeError: invalid recipe; a pattern, type or range that matches nothing; a list where one value must be
            chosen; a rule that contradicts ``trainable``; a parameter that is not a floating tensor.
        BudgetError: ``bits`` that what is not compressed fills alone.
        DataError: the model does not run on the example inputs.
    """
    made = quiet_plan(model, recipe, example_inputs)
    warn_of(made)
    return made


def warn_of(plan: Plan) -> None:
    """Warn of rules without effect, and once of all large weights that are skipped though nobody expects it."""
    for said in (*plan.overridden, *plan.warned, warning(plan.recipe, plan.skipped)):
        if said is not None:
            warnings.warn(said, stacklevel=4)


def quiet_plan(model: nn.Module, recipe: Any, example_inputs: Any = None, beyond: bool = True) -> Plan:
    """:func:`plan` without a warning, for whoever has warned already or shows the notes.

    Args:
        model, recipe, example_inputs: see :func:`plan`.
        beyond: whether ``all`` means more than convolutions and linear layers.
    """
    recipe = Recipe.load(recipe)
    refuse_choices(recipe)
    with own_modes():
        model = private(model, runs=False)
        baked = tuple(baking_notes(computed(unwrapped(original(model)))))
        changed = restructured(model, recipe)
        recipe, machine = reduced(recipe)
        found = plan_as_is(changed, recipe, example_inputs, beyond=beyond)
        found = replace(found, structure=found.structure + baked + machine, warned=found.warned + machine)
        if changed is model:
            return found
        return replace(found, total_weights=_total_weights(model, found), original_bytes=_original_bytes(model))


def restructured(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The model, or a copy in which the recipe's steps before the fit have folded what they fold."""
    steps = [registry.make("step", step.step, step.options, RecipeError) for step in recipe.recover]
    changes = [step.restructure for step in steps if hasattr(step, "restructure")]
    if recipe.activations and any(isinstance(module, _BatchNorm) for module in model.modules()):
        changes.append(fold_batch_norms)
    if not changes:
        return model
    changed = copied(model)
    for change in changes:
        change(changed)
    return changed


def plan_as_is(
    model: nn.Module, recipe: Recipe, example_inputs: Any = None, like: Plan | None = None, beyond: bool = True
) -> Plan:
    """:func:`plan` for a model that is already in the structure that the recipe gives it.

    Args:
        model: the uncompressed student.
        recipe: without choices.
        example_inputs: see :func:`plan`.
        like: the plan of the original, whose totals are kept.
        beyond: see :func:`quiet_plan`; int8 layers are made of convolutions and linear layers only.
    """
    beyond = beyond and recipe.activations is None
    if held := codebooks(model):
        raise RecipeError(f"the model already holds codebooks (for example {next(iter(held))}): pass the original")
    layers = ordered_layers(model, example_inputs)
    if not layers:
        raise RecipeError(f"{type(model).__name__} has no parameters: nothing to compress")
    numbers = {layer.name: n for n, layer in enumerate((la for la in layers if la.numbered), start=1)}
    places, broken = owners(model), unfit(model)
    winners: dict[int, tuple[Layer, str, int]] = {}
    for index, rule in enumerate(recipe.quantize):
        for layer, leaf in select(layers, rule, index, recipe, beyond):
            key = id(layer.weights()[leaf])
            if key in broken and rule.quantizer != KEEP and layer.name in rule.selectors:
                raise RecipeError(f"{recipe.at('quantize', index)}: {places[key][0][0]}: {broken[key]}; {REPAIR}")
            winners[key] = (layer, leaf, index)
    refuse_held_outside(model, recipe, winners, broken)
    if buffers := [f"{la.name}.{leaf}".lstrip(".") for la, leaf, _ in winners.values() if _in_buffer(la, leaf)]:
        promoted = copied(model, share=True)
        promote(promoted, buffers)
        return plan_as_is(promoted, recipe, example_inputs, like, beyond)
    parameters: dict[str, PlannedParameter] = {}
    for key, (layer, leaf, index) in winners.items():
        rule = recipe.quantize[index]
        if rule.quantizer != KEEP and key not in broken:
            planned = _planned(layer, leaf, index, rule, recipe, places[key], numbers)
            parameters[planned.name] = planned
    if winners and set(winners) <= set(broken):
        raise RecipeError(f"{recipe.at('quantize')}: nothing to compress: {places[key][0][0]}: {broken[key]}; {REPAIR}")
    order = {layer.name: n for n, layer in enumerate(layers)}
    parameters = dict(sorted(parameters.items(), key=lambda item: order[item[0].rpartition(".")[0]]))
    structure, warned = structural_notes(
        model, recipe, parameters, places, {key: why for key, why in broken.items() if key in winners}
    )
    untrained = {name for key in broken for name, _, _ in places[key]}
    trainable = trainable_names(recipe, model, layers, parameters, untrained)
    weights = _total_weights(model) if like is None else like.total_weights
    original_bytes = _original_bytes(model) if like is None else like.original_bytes
    draft = Plan(
        recipe,
        type(model).__name__,
        parameters,
        frozenset(trainable),
        weights,
        original_bytes,
        overridden=_overridden(recipe, {index for _, _, index in winners.values()}),
        skipped=tuple(skipped(recipe, layers, winners, weights, original_bytes, beyond)),
        structure=tuple(structure),
        warned=tuple(warned),
    )
    if recipe.bits is not None:
        draft = replace(draft, predicted_bytes=round(recipe.bits * weights / 8))
        draft.room(model)
        return draft
    records = {p.name: p.record() for p in parameters.values()}
    streams = {}
    if (kind := recipe.storage.codes) != "packed":
        streams = {p.name: expected_stream(p, model.get_parameter(p.name).detach(), kind) for p in parameters.values()}
    size = predicted_size(model, records, recipe.data(), recipe.storage, streams)
    return replace(draft, predicted_bytes=size)


def _in_buffer(layer: Layer, leaf: str) -> bool:
    held = layer.module._buffers.get(leaf)
    return held is not None and not isinstance(held, nn.Parameter)


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
    parameter, names = layer.weights()[leaf], [name for name, _, _ in owned]
    where = recipe.at("quantize", index)
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise RecipeError(f"{where}: {names[0]} is lazy; run the model once before compressing it")
    entry = registry.find("quantizer", rule.quantizer, RecipeError)
    options = for_table(entry.options.model_validate(rule.options), layer, leaf, rule)
    wanted = int(getattr(options, "centroids", 0))
    if wanted < 1:
        raise RecipeError(f"{where}: quantizer {rule.quantizer!r} does not say how many centroids it gives")
    granularity = str(getattr(options, "granularity", "tensor"))
    along = layer.outputs(leaf) or Along(0)
    if parameter.dim() == 0:
        granularity = "tensor"
    even, block = bool(getattr(entry.cls, "even", False)), int(getattr(options, "block", 1))
    try:
        layout = Layout(tuple(parameter.shape), wanted, granularity, along.axis, block, along.stacked)
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


def _overridden(recipe: Recipe, winning: set[int]) -> tuple[str, ...]:
    return tuple(
        f"{recipe.at('quantize', index)}: every parameter of this rule is taken by a later rule"
        for index in range(len(recipe.quantize))
        if index not in winning
    )


def _total_weights(model: nn.Module, plan: Plan | None = None) -> int:
    """Number of parameters, and of the elements of buffers that the plan gives codebooks."""
    buffers = {id(b): b for name, b in model.named_buffers() if plan is not None and name in plan.parameters}
    return sum(p.numel() for p in (*model.parameters(), *buffers.values()))


def _original_bytes(model: nn.Module) -> int:
    tensors = {id(t): t for t in (*model.parameters(), *_persistent_buffers(model))}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _persistent_buffers(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield buffer


__all__ = ["Plan", "PlannedParameter", "plan", "verify_plan"]
