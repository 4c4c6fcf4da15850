"""The recipe that a configuration stands for."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from lloydmax.data import Source
from lloydmax.defaults import plain_recipe, recipe_for
from lloydmax.errors import IntegrationError, RecipeError
from lloydmax.integrations.inc.fields import DEFAULTS
from lloydmax.integrations.inc.host import DEFAULT_WHITE_LIST, LM_HEAD_NAMES, NAME, theirs
from lloydmax.integrations.inc.names import meant
from lloydmax.network.buffers import weights_in_buffers
from lloydmax.network.layers import Layer, layers_of
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.sections import KEEP


def recipe_of(config: Any, model: nn.Module | None, data: Source | None = None, runs: bool = True) -> Recipe:
    """The recipe that a ``CodebookConfig`` stands for; ``others`` is not part of it.

    Args:
        config: the configuration of a whole model.
        model: where given, its patterns are resolved to the names of the model's layers.
        data: unlabelled inputs, for a recipe by ``bits`` and ``effort``.
        runs: whether the model may be run to find such a recipe; else only the codebooks in it are right.

    Raises:
        RecipeError: a pattern that matches no layer, or that no recipe can express without the model.
        IntegrationError: a layer that INC's own algorithms have taken already.
    """
    layers = None if model is None else layers_of(model)
    listed = config.white_list != DEFAULT_WHITE_LIST
    rules = [] if listed else _global(config, layers)
    local_configs = {**({key: config for key in config.white_list} if listed else {}), **config.local_config}
    taken = [] if model is None else _taken(model, layers or [], local_configs)
    found = [(*meant(key, layers, model), local) for key, local in local_configs.items()]
    for names, types, local in sorted(found, key=lambda one: not one[1]):
        rules += rules_for(local, names or ["all"], types)
    if config.effort is not None:
        if model is None or layers is None:
            raise RecipeError("bits with effort or data make the recipe of a model: to_recipe(model)")
        if listed:
            rules.insert(0, _but(found, layers))
        base = recipe_for(model, config.bits, data, config.effort) if runs else plain_recipe(model, config.bits)
        return assembled(config, base.data(), rules + left(taken))
    return assembled(config, copy.deepcopy(config.recipe or {"version": 1, "name": NAME}), rules + left(taken))


def rules_for(config: Any, layers: Sequence[str], types: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rules of a recipe that one configuration makes for some layers."""
    head: dict[str, Any] = {"layers": layers[0] if len(layers) == 1 else list(layers)}
    if types:
        head["types"] = list(types)
    if config.quantizer == KEEP:
        return [{**head, "parameter": "*", "quantizer": KEEP, **config.options}]
    rules = []
    shared = {} if config.quantizer == DEFAULTS["quantizer"] else {"quantizer": config.quantizer}
    if config.centroids is not None and config.effort is None:
        rule = {**head, **shared, "centroids": config.centroids, "granularity": config.granularity, **config.options}
        rules.append(rule if config.importance is None else {**rule, "importance": config.importance})
    if config.bias_centroids is not None:
        rules.append({**head, "parameter": "bias", "centroids": config.bias_centroids})
    return rules


def assembled(config: Any, base: dict[str, Any], rules: list[dict[str, Any]]) -> Recipe:
    """A recipe with further rules, and with what a configuration says of the whole model."""
    base["quantize"] = [*base.get("quantize", []), *rules]
    asked = config.effort is None or config.trainable != DEFAULTS["trainable"]
    if config.trainable is not None and asked:
        base["trainable"] = as_list(config.trainable)
    if config.recover is not None:
        base["recover"] = [{"step": step} if isinstance(step, str) else step for step in as_list(config.recover)]
    if config.storage is not None:
        base["storage"] = config.storage
    if config.seed is not None and (config.effort is None or config.seed != DEFAULTS["seed"]):
        base["seed"] = config.seed
    return Recipe.load(base)


def as_list(value: Any) -> list[Any]:
    """A list of one or several."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _global(config: Any, layers: Sequence[Layer] | None) -> list[dict[str, Any]]:
    rules = rules_for(config, ["all"])
    if config.quant_lm_head is not False:
        return rules
    if layers is None:
        raise RecipeError("quant_lm_head=False needs the model: to_recipe(model)")
    heads = [la.name for la in layers if any(re.match(pattern, la.name) for pattern in LM_HEAD_NAMES)]
    return rules + left(heads)


def _but(found: Sequence[tuple[list[str], list[str], Any]], layers: Sequence[Layer]) -> dict[str, Any]:
    """The rule that leaves alone what no local configuration means."""
    names = {name for listed, _, _ in found for name in listed}
    types = {kind for _, listed, _ in found for kind in listed}
    rest = [layer.name for layer in layers if layer.name not in names and types.isdisjoint(layer.types)]
    return {"layers": rest, "parameter": "*", "quantizer": KEEP}


def _taken(model: nn.Module, layers: Sequence[Layer], keys: Iterable[str]) -> list[str]:
    """The layers that INC's own algorithms made, and what is in them: they get no codebooks."""
    taken = theirs(model)
    for name in taken:
        if named := [key for key in keys if key == name or re.fullmatch(key, name)]:
            raise IntegrationError(
                f"{named[0]!r}: {name} is an {type(taken[name]).__name__} of INC's own algorithms: quantize the "
                "original with CodebookConfig first, then with the other configuration"
            )
    within = tuple(f"{name}." for name in taken)
    inside = [layer.name for layer in layers if layer.name in taken or layer.name.startswith(within)]
    owned = {name.rpartition(".")[0] for name in (*dict(model.named_parameters()), *weights_in_buffers(model))}
    return [name for name in inside if name in owned]


def left(names: Sequence[str]) -> list[dict[str, Any]]:
    """The rules that leave some layers as they are."""
    return [{"layers": list(names), "parameter": "*", "quantizer": KEEP}] if names else []
