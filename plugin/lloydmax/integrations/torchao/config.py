"""The configuration for ``quantize_``, and what happens to a module that it is applied to."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import InitVar, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import FLOAT_DTYPES, Layout
from lloydmax.errors import FitError, IntegrationError, RecipeError
from lloydmax.fitting.codebook import fit_codebook
from lloydmax.hooks import registry
from lloydmax.integrations.computed import refuse_computed, refuse_computed_in
from lloydmax.integrations.given import refuse_unchangeable
from lloydmax.integrations.torchao.host import (
    ALLOWED_AO_MODULES,
    AOBaseConfig,
    FqnToConfig,
    register_quantize_module_handler,
)
from lloydmax.network.layers import output_axis
from lloydmax.plan.plan import plan as make_plan
from lloydmax.recipe.checks import refuse_bits
from lloydmax.recipe.choices import refuse_choices
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.sections import KEEP
from lloydmax.student.attachment import attach, attached, finish

_STEPS = (None, "prepare", "convert")
_CENTROIDS, _MOST_BITS = 16, 16


@dataclass
class CodebookWeightConfig(AOBaseConfig):
    """torchao configuration: the weight becomes centroids and codes.

    ``quantize_(model, CodebookWeightConfig(centroids=16), filter_fn=...)``; torchao's default filter takes only
    ``nn.Linear``, and ``quantize_`` hands over one module at a time, so that nothing can be said of the others (GPT-2's
    ``Conv1D``, embeddings): :func:`recipe_to_config` takes them by a recipe, and names large weights that stay.
    ``lloydmax.codebooks(model)`` and ``lloydmax.verify_plan`` prove what was done.

    Attributes:
        centroids: number of each codebook's centroids.
        granularity: ``"tensor"``, ``"channel"`` or ``"group:N"``.
        quantizer: any registered quantizer.
        options: further options of the quantizer.
        step: ``None`` compresses and finishes; ``"prepare"`` leaves trainable centroids for training, such as
            :func:`lloydmax.distill`; ``"convert"`` finishes what ``"prepare"`` began.
        axis: of the output channels; ``None``: as the class of the module tells, else 0.
        matrices: that the weight is a stack of, each with output channels of its own.
        bits: torchao's word, 1 to 16: ``2 ** bits`` centroids.
        group_size: torchao's word: -1 is granularity ``"channel"``; codebooks are not shared by parts of a row.
        recipe: anything that :meth:`lloydmax.Recipe.load` takes, with one rule, for ``layers: all``.

    Raises:
        IntegrationError: another step, or a word that means nothing here or contradicts another. RecipeError: the
            recipe is not valid, or its rules ask which layer they are given. FitError: options of the quantizer.
    """

    centroids: int = _CENTROIDS
    granularity: str = "tensor"
    quantizer: str = "kmeans"
    options: dict[str, Any] = field(default_factory=dict)
    step: str | None = None
    axis: int | None = None
    matrices: int = 1
    bits: InitVar[int | None] = None
    group_size: InitVar[int | None] = None
    recipe: InitVar[Any] = None

    def __post_init__(self, bits: int | None, group_size: int | None, recipe: Any) -> None:
        if recipe is not None:
            self._take(_only_rule(recipe), "recipe")
        if bits is not None:
            if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= _MOST_BITS:
                raise IntegrationError(f"bits={bits!r}: bits of a code are whole numbers from 1 to {_MOST_BITS}")
            self._take({"centroids": 2**bits}, f"bits={bits}")
        if group_size is not None:
            if group_size != -1:
                raise IntegrationError(
                    f"group_size={group_size!r}: codebooks are shared by whole output channels, not by parts of a row: "
                    "write group_size=-1 (granularity='channel') for one a channel, or granularity='group:8' for one "
                    "for 8 channels"
                )
            self._take({"granularity": "channel"}, "group_size=-1")
        if self.step not in _STEPS:
            raise IntegrationError(f"step is {self.step!r}; write None, 'prepare' or 'convert'")
        given = {"centroids": self.centroids, "granularity": self.granularity, **self.options}
        registry.make("quantizer", self.quantizer, given, FitError)

    def __str__(self) -> str:
        """For torchao's ``QATConfig``, whose refusal shows it."""
        return f"{self!r}, which needs no QATConfig: step='prepare', the training, step='convert'"

    def _take(self, fields: dict[str, Any], word: str) -> None:
        """Fields that another word stands for."""
        for name, value in fields.items():
            held = getattr(self, name)
            if held not in (_DEFAULTS[name], value):
                raise IntegrationError(f"{word} means {name}={value!r}, but {name}={held!r} is said, too")
            setattr(self, name, value)


_DEFAULTS: dict[str, Any] = {"centroids": _CENTROIDS, "granularity": "tensor", "quantizer": "kmeans", "options": {}}


def _only_rule(recipe: Any) -> dict[str, Any]:
    """The fields that a recipe with a single rule stands for."""
    loaded = Recipe.load(recipe)
    refuse_choices(loaded)
    refuse_bits(loaded, "a configuration of single modules")
    rule = loaded.quantize[0]
    named = rule.layers != "all" or rule.except_ or rule.types or rule.parameter != "weight"
    if len(loaded.quantize) != 1 or named:
        raise RecipeError(
            "its rules ask which layer they are given, and quantize_ hands over modules without names: write "
            "quantize_(model, recipe_to_config(recipe, model), filter_fn=None)"
        )
    if rule.quantizer == KEEP or rule.importance is not None:
        what = f"quantizer: {KEEP}" if rule.quantizer == KEEP else f"importance: {rule.importance}"
        raise RecipeError(f"{what}: quantize_ sees one module at a time; use lloydmax.compress")
    fields: dict[str, Any] = {"quantizer": rule.quantizer, "options": dict(rule.options)}
    for name in ("centroids", "granularity"):
        if name in fields["options"]:
            fields[name] = fields["options"].pop(name)
    return fields


def recipe_to_config(
    recipe: Any, model: nn.Module, default: AOBaseConfig | None = None, step: str | None = None
) -> FqnToConfig:
    """A recipe as torchao's configuration by names, for ``quantize_(model, ..., filter_fn=None)``.

    Args:
        recipe: anything that :meth:`lloydmax.Recipe.load` takes; only ``quantize`` counts here.
        model: the float model.
        default: what all other ``nn.Linear`` layers get, e.g. ``Int8WeightOnlyConfig()``; ``None``: they stay.
        step: see :class:`CodebookWeightConfig`.

    Raises:
        RecipeError: the recipe is invalid or does not fit the model. IntegrationError: tied parameters, importances.
    """
    refuse_unchangeable(model, "torchao")
    plan = make_plan(model, Recipe.load(recipe))
    refuse_bits(plan.recipe, "torchao")
    refuse_computed(model, plan, "torchao")
    configs: OrderedDict[str, AOBaseConfig] = OrderedDict()
    buffers = dict(model.named_buffers(remove_duplicate=False))
    left: list[str] = []
    for p in plan.parameters.values():
        if p.name in buffers:
            if plan.recipe.quantize[p.rule].parameter == p.name.rpartition(".")[2]:
                raise IntegrationError(
                    f"{p.name} is a buffer, and quantize_ sees parameters only: use lloydmax.compress"
                )
            left.append(p.name)
            continue
        if p.tied or p.importance is not None:
            what = f"importance {p.importance!r}" if p.importance is not None else f"tied to {', '.join(p.tied)}"
            raise IntegrationError(f"{p.name}: {what}: quantize_ sees one module at a time; use lloydmax.compress")
        options = p.options.model_dump(exclude={"centroids", "granularity"})
        layer, _, leaf = p.name.rpartition(".")
        name = layer if leaf == "weight" else p.name
        configs[name] = CodebookWeightConfig(
            p.centroids, p.granularity, p.quantizer, options, step, p.layout.axis, p.layout.matrices
        )
    if left:
        warnings.warn(
            f"{', '.join(left)}: weights in buffers stay as they are, as quantize_ sees parameters only: use "
            "lloydmax.compress",
            stacklevel=2,
        )
    if default is not None:
        configs["_default"] = default
    return FqnToConfig(configs)


@register_quantize_module_handler(CodebookWeightConfig)
def _apply(module: nn.Module, config: CodebookWeightConfig, *, parameter_name: str = "weight") -> nn.Module:
    if config.step == "convert":
        if not any(leaf == parameter_name for _, owner, leaf, _, _ in attached(module) if owner is module):
            raise IntegrationError(
                f"{_described(module)}: its {parameter_name} has no codebook to convert; run quantize_ with "
                "step='prepare' and the same filter first"
            )
        return finish(module)
    refuse_unchangeable(module, "torchao")
    refuse_computed_in(module, parameter_name, "torchao")
    parameter = module._parameters.get(parameter_name)
    if parameter is not None and parameter.dtype in (torch.float64, torch.complex64, torch.complex128):
        kind = str(parameter.dtype).removeprefix("torch.")
        raise IntegrationError(
            f"{_described(module)}: its {parameter_name} is {kind}, not float32, float16 or bfloat16: call "
            "model.float()"
        )
    if parameter is None or parameter.dtype not in FLOAT_DTYPES or type(parameter) is not nn.Parameter:
        raise IntegrationError(
            f"{_described(module)}: its {parameter_name} is not a float parameter that can have a codebook "
            "(another configuration may have taken it before); let filter_fn leave this module out"
        )
    attach(module, parameter_name, _fitted(parameter, config, output_axis(module, parameter_name) or 0))
    return module if config.step == "prepare" else finish(module)


def _fitted(weight: Tensor, config: CodebookWeightConfig, usual: int) -> Codebook:
    axis = usual if config.axis is None else config.axis
    options = {"quantizer": config.quantizer, **config.options}
    if config.matrices == 1 or config.granularity == "tensor":
        return fit_codebook(weight, config.centroids, config.granularity, axis=axis, **options)
    layout = Layout(tuple(weight.shape), config.centroids, config.granularity, axis, matrices=config.matrices)
    rows = layout.channels_first(weight.detach()).flatten(1)
    return fit_codebook(rows, config.centroids, config.granularity, **options).laid_out(layout)


def _described(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"


ALLOWED_AO_MODULES.add("lloydmax.integrations.torchao")
