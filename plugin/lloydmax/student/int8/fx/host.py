"""What is used of ``torch.ao.quantization``, in one place, and a clear error where it is gone."""

from __future__ import annotations

import warnings
from typing import Any

from lloydmax.errors import IntegrationError
from lloydmax.network.tracing import forget_graphs

warnings.warn(
    "torch.ao.quantization is deprecated upstream and may leave PyTorch: in place of apply_recipe write "
    "torchao.quantization.quantize_(model, lloydmax.integrations.torchao.recipe_to_config(recipe, model), "
    "filter_fn=None), or lloydmax.integrations.torchao.CodebookQuantizer(recipe, model) in prepare_pt2e",
    DeprecationWarning,
    stacklevel=2,
)
try:
    import torch.ao.nn.intrinsic as nni
    import torch.ao.nn.quantized as nnq
    from torch.ao.quantization.quantize_fx import _swap_ff_with_fxff as swap_functional  # isort: skip  (before the rest)
    from torch.ao.quantization import FakeQuantizeBase, QConfig, QConfigMapping
    from torch.ao.quantization.backend_config import (
        BackendConfig,
        BackendPatternConfig,
        DTypeConfig,
        get_native_backend_config,
    )
    from torch.ao.quantization.fx import utils
    from torch.ao.quantization.fx.convert import convert
    from torch.ao.quantization.fx.custom_config import FuseCustomConfig
    from torch.ao.quantization.fx.fuse import fuse
    from torch.ao.quantization.fx.prepare import prepare
    from torch.ao.quantization.fx.tracer import QuantizationTracer
    from torch.ao.quantization.observer import PlaceholderObserver
    from torch.ao.quantization.quantization_mappings import get_default_static_quant_module_mappings
except (ImportError, AttributeError) as error:
    raise IntegrationError(
        f"this PyTorch has no torch.ao.quantization any more ({error}); "
        "use lloydmax.integrations.torchao: quantize_ or PT2E; in a recipe with activations: host: own"
    ) from error


def forget_models() -> None:
    """Let go of the models that the host has seen: it keeps them as keys of a cache, from which only their devices are
    read. What others have in it is looked up anew."""
    cached: Any = getattr(utils, "assert_and_get_unique_device", None)
    if hasattr(cached, "cache_clear"):
        cached.cache_clear()
    forget_graphs()


__all__ = [
    "BackendConfig",
    "BackendPatternConfig",
    "DTypeConfig",
    "FakeQuantizeBase",
    "FuseCustomConfig",
    "PlaceholderObserver",
    "QConfig",
    "QConfigMapping",
    "QuantizationTracer",
    "convert",
    "forget_models",
    "fuse",
    "get_default_static_quant_module_mappings",
    "get_native_backend_config",
    "nni",
    "nnq",
    "prepare",
    "swap_functional",
]
