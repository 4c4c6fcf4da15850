"""Codebook layers and trained thresholds in ``torch.ao.quantization``, eager and FX, by configuration only.

Importing this package does not import ``torch.ao.quantization``; the first use of a name does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lloydmax.integrations.torch_ao.eager import eager_mapping
    from lloydmax.integrations.torch_ao.int8 import quantized_codebook
    from lloydmax.integrations.torch_ao.recipes import apply_recipe, verify
    from lloydmax.student.int8.backend import backend_config
    from lloydmax.student.int8.codebook_weight import CodebookFakeQuantize, codebook_qconfig
    from lloydmax.student.int8.threshold import (
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
    "CodebookFakeQuantize": "lloydmax.student.int8.codebook_weight",
    "codebook_qconfig": "lloydmax.student.int8.codebook_weight",
    "backend_config": "lloydmax.student.int8.backend",
    "eager_mapping": "lloydmax.integrations.torch_ao.eager",
    "apply_recipe": "lloydmax.integrations.torch_ao.recipes",
    "verify": "lloydmax.integrations.torch_ao.recipes",
    "quantized_codebook": "lloydmax.integrations.torch_ao.int8",
    "ThresholdFakeQuantize": "lloydmax.student.int8.threshold",
    "threshold_qconfig": "lloydmax.student.int8.threshold",
    "threshold_qconfig_mapping": "lloydmax.student.int8.threshold",
    "train_thresholds": "lloydmax.student.int8.threshold",
}


def __getattr__(name: str) -> Any:
    """The public names; raises :class:`lloydmax.IntegrationError` where ``torch.ao.quantization`` is gone."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
