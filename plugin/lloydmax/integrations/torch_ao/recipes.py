"""From a recipe to QConfigs by layer name, and the proof that the converted model holds what was asked for.

Rules with ``quantizer: uniform`` become int8 layers with trained thresholds, all others codebook layers.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lloydmax.errors import IntegrationError, PlanMismatchError
from lloydmax.integrations.computed import refuse_computed
from lloydmax.integrations.given import refuse_unchangeable
from lloydmax.integrations.torch_ao.int8 import mismatch, quantized_weight
from lloydmax.integrations.torch_ao.qconfig import codebook_qconfig
from lloydmax.plan.plan import Plan, PlannedParameter, quiet_plan, warn_of
from lloydmax.plan.reduced_range import reduced
from lloydmax.recipe.checks import refuse_bits
from lloydmax.recipe.recipe import Recipe
from lloydmax.student.attachment import codebooks
from lloydmax.student.int8.fx.host import QConfigMapping, forget_models, nni
from lloydmax.student.int8.fx.qconfigs import FLOAT_ACTIVATIONS, threshold_activation, uniform_qconfig
from lloydmax.student.int8.weights import UNIFORM, refusal

_applied: dict[str, list[Plan]] = {}
_MOST_APPLIED = 100
"""Recipes whose plans are remembered."""


def apply_recipe(
    mapping: QConfigMapping | None,
    recipe: Any,
    model: nn.Module,
    *,
    activation: Callable[..., Any] | str = "mapping",
    example_inputs: Any = None,
) -> Plan:
    """Give every layer that a recipe compresses a QConfig; all others keep what the mapping says.

    A rule with ``quantizer: uniform`` gives the layer trained thresholds, and with it int8 kernels; any other one a
    codebook.

    Args:
        mapping: changed in place, for ``prepare_fx`` and ``prepare_qat_fx``. ``None``: eager mode; then the
            ``qconfig`` of the layers of ``model`` is set. Call it after ``fuse_modules``, and set ``model.qconfig``
            before.
        recipe: a plan of the model, or anything that :meth:`lloydmax.Recipe.load` takes; only ``quantize``,
            ``activations`` and ``trainable`` count here.
        model: the float model, before it is prepared.
        activation: ``"mapping"``: the planned layers' activations have trained thresholds where the recipe has
            ``activations``, else they are observed as the mapping (in eager mode: the model's ``qconfig``) says, so
            that they sit between int8 layers; ``"float"``: weight-only codebooks; or a constructor.
        example_inputs: see :func:`lloydmax.plan`.

    Returns:
        The plan, for :func:`verify`.

    Raises:
        RecipeError: the recipe is invalid or does not fit the model. IntegrationError: it asks for what
            ``torch.ao.quantization`` cannot do: other parameters than the weights of standard layers, tied ones,
            importances, int8 layers with float activations. ModelError: it is no network.
    """
    refuse_unchangeable(model, "torch.ao.quantization")
    forget_models()
    plan = recipe if isinstance(recipe, Plan) else _plan(model, Recipe.load(recipe), example_inputs)
    warn_of(plan)
    refuse_bits(plan.recipe, "torch.ao.quantization")
    refuse_computed(model, plan, "torch.ao.quantization")
    twice = _twice(model) if mapping is None else set()
    if problems := [f"{p.name}: {reason}" for p in plan.parameters.values() if (reason := _refused(p, twice))]:
        raise IntegrationError("torch.ao.quantization cannot do what the recipe says: " + "; ".join(problems))
    settings = plan.recipe.activations
    for p in plan.parameters.values():
        layer = p.name.rpartition(".")[0]
        module, present = model.get_submodule(layer), _present(mapping, layer, model)
        observed = FLOAT_ACTIVATIONS if present is None or isinstance(module, nn.Embedding) else present.activation
        if settings is not None:
            observed = threshold_activation(settings.bits, settings.scheme)
        chosen = (
            {"mapping": observed, "float": FLOAT_ACTIVATIONS}[activation] if isinstance(activation, str) else activation
        )
        if chosen is not FLOAT_ACTIVATIONS and (dtype := next(module.parameters()).dtype) != torch.float32:
            raise IntegrationError(
                f"{p.name} is {str(dtype).removeprefix('torch.')}, and torch.ao.quantization observes and quantizes "
                "activations of float32 only: call model.float(), or write activation='float' for codebooks alone"
            )
        if p.quantizer == UNIFORM:
            qconfig = uniform_qconfig(p, chosen, module)
        else:
            qconfig = _codebook_qconfig(p, chosen, plan, mapping is None)
        if mapping is None:
            module.qconfig = qconfig
        else:
            mapping.set_module_name(layer, qconfig)
    _remember(plan)
    return plan


def _plan(model: nn.Module, recipe: Recipe, example_inputs: Any = None) -> Plan:
    """What the host can do of a recipe: rules for all mean its convolutions and linear layers."""
    recipe, told = reduced(recipe, in_int8=True)
    made = quiet_plan(_unfused(model), recipe, example_inputs, beyond=False)
    return replace(made, warned=made.warned + told)


def _codebook_qconfig(p: PlannedParameter, activation: Any, plan: Plan, eager: bool) -> Any:
    return codebook_qconfig(
        p.centroids,
        p.granularity,
        activation=activation,
        axis=p.axis,
        trainable=p.name in plan.trainable,
        quantizer=p.quantizer,
        eager=eager,
        **p.options.model_dump(exclude={"centroids", "granularity"}),
    )


def verify(model: nn.Module, recipe: Any, original: nn.Module | None = None) -> None:
    """Prove that a converted model holds the codebooks and int8 layers that a recipe asked for.

    Int8 layers beyond those come from the rest of the mapping.

    Args:
        model: from ``convert_fx`` or ``convert``.
        recipe: the plan that :func:`apply_recipe` returned, or the recipe that was given to it.
        original: the float model, where the recipe was applied in another process.

    Raises:
        PlanMismatchError: names every layer that stayed float, became int8 against the plan, or has other
            codebooks, bits or thresholds.
        IntegrationError: the recipe was not applied here and ``original`` is missing.
    """
    forget_models()
    plan = _plan_of(recipe, original)
    modules = dict(model.named_modules())
    uniform = [p for p in plan.parameters.values() if p.quantizer == UNIFORM]
    wanted = {p.name: p for p in plan.parameters.values() if p.quantizer != UNIFORM}
    problems = [found for p in uniform if (found := mismatch(modules.get(p.name.rpartition(".")[0]), p))]
    for name, codebook in codebooks(model).items():
        if quantized_weight(modules.get(name.rpartition(".")[0])) is not None:
            continue
        p = wanted.pop(_original_name(name, plan), None)
        if p is None:
            problems.append(f"{name} has a codebook, which was not planned")
        elif not p.layout.fits(codebook.layout):
            problems.append(f"{name} has {codebook.layout}, planned {p.layout}")
    for p in wanted.values():
        layer = p.name.rpartition(".")[0]
        problems.append(f"{p.name} has no codebook: its layer is {type(modules.get(layer)).__name__}")
    if problems:
        hint = ""
        if wanted or uniform:
            hint = (
                ". Pass backend_config=lloydmax.integrations.torch_ao.backend_config() to prepare and to convert_fx "
                "(eager: mapping=eager_mapping() to convert), and apply_recipe after fuse_modules"
            )
        raise PlanMismatchError("the model does not hold what the recipe says: " + "; ".join(problems) + hint)


def _twice(model: nn.Module) -> set[str]:
    """The layers that are at several places: eager mode converts them at one only."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return {name for found in names.values() if len(found) > 1 for name in found}


def _refused(p: PlannedParameter, twice: Set[str]) -> str | None:
    """Why the host cannot do what is planned for a parameter; ``None`` where it can."""
    if p.name.rpartition(".")[0] in twice:
        return "its layer is at several places, of which eager mode converts one: use FX, or a module for each place"
    if p.importance is not None:
        return f"importance {p.importance!r} needs lloydmax.compress"
    return refusal(p)


def _present(mapping: QConfigMapping | None, layer: str, model: nn.Module) -> Any:
    """The QConfig that a layer has without the recipe; upstream's order of precedence."""
    if mapping is None:
        names = [layer.rsplit(".", depth)[0] for depth in range(layer.count(".") + 1)] + [""]
        return next((q for name in names if (q := getattr(model.get_submodule(name), "qconfig", None))), None)
    if layer in mapping.module_name_qconfigs:
        return mapping.module_name_qconfigs[layer]
    for pattern, qconfig in mapping.module_name_regex_qconfigs.items():
        if re.match(pattern, layer):
            return qconfig
    return mapping.object_type_qconfigs.get(type(model.get_submodule(layer)), mapping.global_qconfig)


def _unfused(model: nn.Module) -> nn.Module:
    """The model with every eager fused module replaced by its convolution or linear layer, under its name."""
    fused = [name for name, module in model.named_modules() if isinstance(module, nni.modules.fused._FusedModule)]
    if not fused:
        return model
    unfused = copy.deepcopy(model)
    for name in fused:
        unfused.set_submodule(name, unfused.get_submodule(f"{name}.0"))
    return unfused


def _original_name(name: str, plan: Plan) -> str:
    """The name in the float model: converted fused and eager layers hold the codebook layer as a numbered child."""
    layer, _, leaf = name.rpartition(".")
    outer, _, number = layer.rpartition(".")
    return f"{outer}.{leaf}" if name not in plan.parameters and number.isdigit() else name


def _remember(plan: Plan) -> None:
    key = _key(plan.recipe)
    known = _applied[key] = _applied.pop(key, [])
    for oldest in list(_applied)[:-_MOST_APPLIED]:
        _applied.pop(oldest, None)
    if all(_shape(plan) != _shape(other) for other in known):
        known.append(plan)


def _plan_of(recipe: Any, original: nn.Module | None) -> Plan:
    if isinstance(recipe, Plan):
        return recipe
    loaded = Recipe.load(recipe)
    if original is not None:
        return _plan(original, loaded)
    known = _applied.get(_key(loaded), [])
    if len(known) == 1:
        return known[0]
    reason = "was applied to several models" if known else "was not applied in this process"
    raise IntegrationError(f"the recipe {reason}: pass verify(model, recipe, original=float_model)")


def _key(recipe: Recipe) -> str:
    return json.dumps(recipe.data(), sort_keys=True, default=str)


def _shape(plan: Plan) -> list[tuple[Any, ...]]:
    return [(p.name, p.shape, p.centroids, p.granularity) for p in plan.parameters.values()]
