"""Codebook layers and trained thresholds in ``torch.ao.quantization``, eager and FX, by configuration only.

Importing this package does not import ``torch.ao.quantization``; the first use of a name does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lloydmax.integrations.torch_ao.eager import eager_mapping
    from lloydmax.integrations.torch_ao.fx import backend_config
    from lloydmax.integrations.torch_ao.int8 import quantized_codebook
    from lloydmax.integrations.torch_ao.qconfig import CodebookFakeQuantize, codebook_qconfig
    from lloydmax.integrations.torch_ao.recipes import apply_recipe, verify
    from lloydmax.integrations.torch_ao.thresholds import (
        ThresholdFakeQuantize,
        threshold_qconfig,
        threshold_qconfig_mapping,
        train_thresholds,
    )

__all__ = [
    "CodebookFakeQuantize",
    "ThresholdFakeQuantize",
    "apply_recipe",
    "backend_config",
    "codebook_qconfig",
    "eager_mapping",
    "quantized_codebook",
    "threshold_qconfig",
    "threshold_qconfig_mapping",
    "train_thresholds",
    "verify",
]

_HOMES = {
    "CodebookFakeQuantize": "qconfig",
    "codebook_qconfig": "qconfig",
    "backend_config": "fx",
    "eager_mapping": "eager",
    "apply_recipe": "recipes",
    "verify": "recipes",
    "quantized_codebook": "int8",
    "ThresholdFakeQuantize": "thresholds",
    "threshold_qconfig": "thresholds",
    "threshold_qconfig_mapping": "thresholds",
    "train_thresholds": "thresholds",
}


def __getattr__(name: str) -> Any:
    """The public names; raises :class:`lloydmax.IntegrationError` where ``torch.ao.quantization`` is gone."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
