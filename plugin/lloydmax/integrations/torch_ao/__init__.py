"""Codebook layers and trained thresholds in ``torch.ao.quantization``, eager and FX, by configuration only.

Importing this package does not import ``torch.ao.quantization``; the first use of a name does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lloydmax.integrations.torch_ao.eager import eager_mapping
    from lloydmax.integrations.torch_ao.int8 import quantized_codebook
    from lloydmax.integrations.torch_ao.qconfig import CodebookFakeQuantize, codebook_qconfig
    from lloydmax.integrations.torch_ao.recipes import apply_recipe, verify
    from lloydmax.integrations.torch_ao.thresholds import (
        ThresholdFakeQuantize,
        threshold_qconfig,
        threshold_qconfig_mapping,
        train_thresholds,
    )
    from lloydmax.student.int8.fx.backend import backend_config

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

_HERE = "lloydmax.integrations.torch_ao"
_HOMES = {
    "CodebookFakeQuantize": f"{_HERE}.qconfig",
    "codebook_qconfig": f"{_HERE}.qconfig",
    "eager_mapping": f"{_HERE}.eager",
    "apply_recipe": f"{_HERE}.recipes",
    "verify": f"{_HERE}.recipes",
    "quantized_codebook": f"{_HERE}.int8",
    "train_thresholds": f"{_HERE}.thresholds",
    "backend_config": "lloydmax.student.int8.fx.backend",
    "ThresholdFakeQuantize": f"{_HERE}.thresholds",
    "threshold_qconfig": f"{_HERE}.thresholds",
    "threshold_qconfig_mapping": f"{_HERE}.thresholds",
}


def __getattr__(name: str) -> Any:
    """The public names; raises :class:`lloydmax.IntegrationError` where ``torch.ao.quantization`` is gone."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
