"""The configurations of INC's own algorithms as plain data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lloydmax.data import Source
from lloydmax.errors import IntegrationError
from lloydmax.hooks.options import spelling_hint
from lloydmax.integrations.inc.host import BaseConfig, config_registry, quantize
from lloydmax.integrations.inc.noted import refuse_lost


def plain_others(others: Any) -> dict[str, Any] | None:
    """Other algorithms' options as plain data, with what INC's own ``to_dict`` loses: white lists."""
    if others is None or isinstance(others, dict):
        return copy.deepcopy(others)
    if not isinstance(others, BaseConfig):
        raise IntegrationError(f"others is an INC configuration or a dict such as {{'rtn': {{...}}}}, not {others!r}")
    return {config.name: _plain_other(config) for config in getattr(others, "config_list", [others])}


def _plain_other(config: BaseConfig) -> dict[str, Any]:
    listed = config.white_list if isinstance(config.white_list, list) else []
    local = {key: _parameters(c) for key, c in config.local_config.items() if key not in listed}
    if not all(isinstance(key, str) for key in (*listed, *local)) or (listed and local):
        raise IntegrationError(
            f"the {type(config).__name__} in others has a white list of types, or one besides local configurations: "
            "list the names of its layers"
        )
    own = _parameters(config) | ({"white_list": listed} if listed else {})
    return {"global": own, "local": local} if local else own


def _parameters(config: BaseConfig) -> dict[str, Any]:
    found = copy.deepcopy(config.get_params_dict())
    return {key: value for key, value in found.items() if not key.startswith("_") and key != "non_tunable_params"}


_GAUDI = (
    "{kind} runs on Intel Gaudi only, where it replaces all layers itself: it cannot be combined with CodebookConfig"
)
_EXPORTED = (
    "{kind} works on exported graphs and cannot be combined with CodebookConfig in one call: quantize with "
    "CodebookConfig, export the result, then prepare and convert"
)
_SEPARATE = {
    "autoround": "{kind} writes the whole model to disk and reads it back without codebooks, so that the two cannot be "
    "combined: compress with one of them",
    "smooth_quant": "{kind} needs Intel's extension of PyTorch, which has ended, and the whole model: it cannot be "
    "combined with CodebookConfig; for int8 beside codebooks, export the result, and prepare and convert it with "
    "StaticQuantConfig",
    **dict.fromkeys(("fp8_quant", "hybrid_gptq"), _GAUDI),
    **dict.fromkeys(("static_quant", "pt2e_dynamic_quant"), _EXPORTED),
}
"""INC's algorithms that do not take a model part by part, and what to do."""


def refuse_graph_algorithm(config: BaseConfig) -> None:
    """Refuse a configuration that cannot be combined with codebooks.

    Raises:
        IntegrationError: says why, and what to do.
    """
    if config.name in _SEPARATE:
        raise IntegrationError(_SEPARATE[config.name].format(kind=type(config).__name__))


def layers_taken(config: BaseConfig, info: Any) -> set[str]:
    """The layers that a configuration of INC's quantizes.

    Raises:
        IntegrationError: it matches none.
    """
    found = config.to_config_mapping(model_info=info)
    if not found:
        raise IntegrationError(f"{type(config).__name__} matches no layer of the model: check its white list")
    return {name for (name, _), one in found.items() if getattr(one, "dtype", None) != "fp32"}


def configurations(others: dict[str, Any] | None) -> tuple[BaseConfig, ...]:
    """The configurations that ``CodebookConfig(others=...)`` names.

    Raises:
        IntegrationError: an algorithm that INC does not have, or that cannot be combined with codebooks.
    """
    known = config_registry.get_cls_configs()["torch"]
    found = []
    for name, options in (others or {}).items():
        if name not in known:
            raise IntegrationError(f"INC has no algorithm {name!r}{spelling_hint(name, list(known))}")
        found.append(known[name].from_dict(options))
        refuse_graph_algorithm(found[-1])
    return tuple(found)


def with_others(
    model: nn.Module, others: Sequence[BaseConfig], run_fn: Any, run_args: Any, example_inputs: Any
) -> nn.Module:
    """A model with codebooks after INC's own algorithms have run on the rest of it.

    Raises:
        IntegrationError: one that matches no layer, or that took a layer's codebooks.
    """
    for other in others:
        info = other.get_model_info(model)
        if not other.to_config_mapping(model_info=info):
            raise IntegrationError(f"{type(other).__name__} matches no layer that is left: check names and types")
        model = quantize(model, other, run_fn=run_fn, run_args=run_args, example_inputs=example_inputs)
        refuse_lost(model)
    return model


def feeding(source: Source | None) -> Callable[[nn.Module], None] | None:
    """A calibration function for INC's other algorithms from the inputs that ours used."""
    if source is None:
        return None

    def feed(model: nn.Module) -> None:
        with torch.no_grad():
            for _, batch in source.batches(32):
                batch.run(model)

    return feed
