"""Adapters of PEFT on layers with codebooks: LoRA trains beside the codes, and is never merged into them."""

from __future__ import annotations

import functools
import importlib
from contextlib import suppress
from typing import Any

from torch import nn

from lloydmax.errors import IntegrationError
from lloydmax.integrations.transformers.host import Conv1D, PreTrainedModel
from lloydmax.student.dense import holds_codebooks, original_type, parametrized
from lloydmax.student.layers import CodebookLayer

_REFUSED = (
    "an adapter cannot be merged into codes: keep it beside the compressed model, or call dequantize() of the model "
    "before the adapter is attached"
)


@functools.cache
def enable() -> None:
    """Let PEFT, where it is installed, put LoRA on layers with codebooks, which it knows nothing of."""
    with suppress(Exception):  # it is absent, or cannot be imported: then nobody uses it
        lora: Any = importlib.import_module("peft.tuners.lora.model")
        tuners: Any = importlib.import_module("peft.tuners.tuners_utils")
        lora.dispatch_default = _dispatching(lora.dispatch_default)
        tuners._maybe_include_all_linear_layers = _including(tuners._maybe_include_all_linear_layers)


def _dispatching(default: Any) -> Any:
    @functools.wraps(default)
    def dispatch(target: nn.Module, adapter_name: str, config: Any, **given: Any) -> Any:
        base: Any = target.get_base_layer() if hasattr(target, "get_base_layer") else target  # type: ignore[operator]
        if not holds_codebooks(base):
            return default(target, adapter_name, config=config, **given)
        return _adapter(target, base, adapter_name, config, given)

    return dispatch


def _including(default: Any) -> Any:
    @functools.wraps(default)
    def include(config: Any, model: nn.Module) -> Any:
        asked = getattr(config, "target_modules", None)
        config = default(config, model)
        if isinstance(asked, str) and asked.lower() == "all-linear":
            config.target_modules = {*config.target_modules, *_linear(model)}
        return config

    return include


def _linear(model: nn.Module) -> set[str]:
    """The linear layers with codebooks, but for heads and those that have an adapter already."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.constants import SEQ_CLS_HEAD_NAMES

    heads = [getattr(model, name, None) for name in SEQ_CLS_HEAD_NAMES]
    heads += [model.get_output_embeddings()] if isinstance(model, PreTrainedModel) else []
    adapted = {inner for module in model.modules() if isinstance(module, BaseTunerLayer) for inner in module.modules()}
    return {
        name
        for name, module in model.named_modules()
        if module not in adapted
        and holds_codebooks(module)
        and issubclass(original_type(module), (nn.Linear, Conv1D))
        and not any(module is head for head in heads)
    }


def _adapter(target: nn.Module, base: Any, name: str, config: Any, given: dict[str, Any]) -> Any:
    from peft.tuners.lora import layer as layers

    kind = original_type(base)
    rows = {nn.Linear: layers.Linear, Conv1D: layers.Linear, nn.Embedding: layers.Embedding}
    rows |= {nn.Conv1d: layers.Conv1d, nn.Conv2d: layers.Conv2d, nn.Conv3d: layers.Conv3d}
    found = next((row for known, row in rows.items() if issubclass(kind, known)), None)
    if found is None or given.get("parameter_name") is not None:
        raise IntegrationError(f"LoRA has no adapter for a {kind.__name__} with codes: name other modules")
    if isinstance(config.init_lora_weights, str) and config.init_lora_weights not in ("gaussian", "orthogonal"):
        raise IntegrationError(f"init_lora_weights={config.init_lora_weights!r} would change weights that are codes")
    config.fan_in_fan_out = issubclass(kind, Conv1D)
    given |= {"is_target_conv_1d_layer": True} if config.fan_in_fan_out else {}
    if target is base and found is not layers.Linear:  # they look at the class of what they are beside
        target = parametrized(base) if isinstance(base, CodebookLayer) else base
    return _beside_codes(found)(target, name, config=config, **given)


@functools.cache
def _beside_codes(kind: Any) -> Any:
    """A layer of PEFT that refuses to be merged."""

    class BesideCodes(kind):
        def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
            if not isinstance(module, CodebookLayer):
                found: tuple[int, int] = super()._get_in_out_features(module)
                return found
            inputs, outputs = module.weight.shape
            return (inputs, outputs) if issubclass(original_type(module), Conv1D) else (outputs, inputs)

        def merge(self, *args: Any, **kwargs: Any) -> None:
            raise IntegrationError(_REFUSED)

        def unmerge(self) -> None:
            """Nothing was ever merged."""

    BesideCodes.__name__ = BesideCodes.__qualname__ = kind.__name__
    return BesideCodes
