"""Adapters of PEFT on layers with codebooks: LoRA trains beside the codes, and is never merged into them."""

from __future__ import annotations

import functools
import importlib
from contextlib import suppress
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from lloydmax.errors import IntegrationError
from lloydmax.integrations.transformers.beside_codes import REFUSED, BesideCodes, beside_codes, layers
from lloydmax.integrations.transformers.host import Conv1D, PreTrainedModel
from lloydmax.student.attachment import CodebookWeight
from lloydmax.student.dense import holds_codebooks, original_type, parametrized
from lloydmax.student.layers import CodebookLayer

_ALL_LINEAR = "_maybe_include_all_linear_layers"


@functools.cache
def enable() -> None:
    """Let PEFT, where it is installed, put LoRA on layers with codebooks, which it knows nothing of."""
    with suppress(Exception):  # it is absent, or cannot be imported: then nobody uses it
        lora: Any = importlib.import_module("peft.tuners.lora.model")
        tuners: Any = importlib.import_module("peft.tuners.tuners_utils")
        including, model = _including(getattr(tuners, _ALL_LINEAR)), lora.LoraModel
        lora.dispatch_default = _dispatching(lora.dispatch_default)
        setattr(tuners, _ALL_LINEAR, including)
        model._check_target_module_exists = staticmethod(_looking_for(model._check_target_module_exists))
        model._check_merge_allowed = _refusing(model._check_merge_allowed)
        model._inject_parameters = _naming(model._inject_parameters)
        setattr(importlib.import_module("peft.utils.transformers_weight_conversion"), _ALL_LINEAR, including)


def _dispatching(default: Any) -> Any:
    @functools.wraps(default)
    def dispatch(target: nn.Module, adapter_name: str, config: Any, **given: Any) -> Any:
        base: Any = target.get_base_layer() if hasattr(target, "get_base_layer") else target  # type: ignore[operator]
        parameter = given.get("parameter_name")
        if not holds_codebooks(base) or (parameter is not None and parameter not in _coded(base)):
            return default(target, adapter_name, config=config, **given)
        if parameter is not None:
            return beside_codes(layers().ParamWrapper)(target, adapter_name, config=config, **given)
        return _adapter(target, base, adapter_name, config, given)

    return dispatch


def _looking_for(default: Any) -> Any:
    """Modules by their names, but for those that hold the codes of a parameter and are called as it is."""

    @functools.wraps(default)
    def check(config: Any, key: str) -> Any:
        return key.split(".")[-2:-1] != ["parametrizations"] and default(config, key)

    return check


def _naming(default: Any) -> Any:
    """Parameters by the ends of their names, in the order of the original, which is that of the adapters around each
    other: PEFT finds those that codes hold by whole names only."""

    @functools.wraps(default)
    def inject(self: Any, peft_config: Any, model: nn.Module, *args: Any, **given: Any) -> Any:
        asked, done = peft_config.target_parameters, []
        coded = [
            (module, leaf)
            for name, module in model.named_modules()
            for leaf in _coded(module)
            if any(f".{name}.{leaf}".replace(".base_layer", "").endswith(f".{wanted}") for wanted in asked)
        ]
        try:
            for module, leaf in reversed(coded):  # each is put within the one before
                now = next(name for name, inner in model.named_modules() if inner is module)
                peft_config.target_parameters = [f"{now}.{leaf}"]
                done += default(self, peft_config, model, *args, **given)
        finally:
            peft_config.target_parameters = asked
        return done + default(self, peft_config, model, *args, **given)

    return inject


def _refusing(default: Any) -> Any:
    """Before anything is merged: adapters of layers without codes would be, until the first with codes refuses."""

    @functools.wraps(default)
    def check(self: Any) -> None:
        if any(isinstance(module, BesideCodes) for module in self.model.modules()):
            raise IntegrationError(REFUSED)
        default(self)

    return check


def _including(default: Any) -> Any:
    @functools.wraps(default)
    def include(config: Any, model: nn.Module) -> Any:
        asked = getattr(config, "target_modules", None)
        config = default(config, model)
        if isinstance(asked, str) and asked.lower() == "all-linear":
            config.target_modules = {*config.target_modules, *_linear(model, config.task_type)}
        return config

    return include


def _linear(model: nn.Module, task: str | None) -> set[str]:
    """The linear layers with codebooks, but for those that have an adapter already, and the heads that PEFT leaves."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.constants import SEQ_CLS_HEAD_NAMES

    heads = [model.get_output_embeddings()] if isinstance(model, PreTrainedModel) else []
    heads += [getattr(model, name, None) for name in SEQ_CLS_HEAD_NAMES if task == "SEQ_CLS"]
    adapted = {inner for module in model.modules() if isinstance(module, BaseTunerLayer) for inner in module.modules()}
    return {
        name
        for name, module in model.named_modules()
        if module not in adapted
        and holds_codebooks(module)
        and issubclass(original_type(module), (nn.Linear, Conv1D))
        and not any(module is head for head in heads)
    }


def _coded(module: nn.Module) -> list[str]:
    """The parameters that codes hold in a module that kept its class."""
    chains: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
    return [name for name, chain in chains.items() if isinstance(chain[0], CodebookWeight)]


def _adapter(target: nn.Module, base: Any, name: str, config: Any, given: dict[str, Any]) -> Any:
    known, kind = layers(), original_type(base)
    rows = {nn.Linear: known.Linear, Conv1D: known.Linear, nn.Embedding: known.Embedding}
    rows |= {nn.Conv1d: known.Conv1d, nn.Conv2d: known.Conv2d, nn.Conv3d: known.Conv3d}
    found = next((row for original, row in rows.items() if issubclass(kind, original)), None)
    if found is None:
        raise IntegrationError(f"LoRA has no adapter for a {kind.__name__} with codes: name other modules")
    if isinstance(config.init_lora_weights, str) and config.init_lora_weights not in ("gaussian", "orthogonal"):
        raise IntegrationError(f"init_lora_weights={config.init_lora_weights!r} would change weights that are codes")
    config.fan_in_fan_out = issubclass(kind, Conv1D)
    given |= {"is_target_conv_1d_layer": True} if config.fan_in_fan_out else {}
    if target is base and found is not known.Linear:  # they look at the class of what they are beside
        target = parametrized(base) if isinstance(base, CodebookLayer) else base
    return beside_codes(found)(target, name, config=config, **given)
