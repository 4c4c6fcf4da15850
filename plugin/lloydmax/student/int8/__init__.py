"""The int8 student: weights and activations quantized, trained thresholds, int8 kernels in the end.

It is prepared, trained and converted by ``torch.ao.quantization`` in FX graph mode, and keeps the names of the original
architecture, so that such a model has codebooks, a plan and a file like any other. Importing this package does not
import ``torch.ao.quantization``, which may leave PyTorch; the first use of a name does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lloydmax.student.int8.model import Int8Model

if TYPE_CHECKING:
    from lloydmax.student.int8.conversion import converted, restored
    from lloydmax.student.int8.graph import calibrate, fake_quantized, hold, refuse, set_trainable

__all__ = ["Int8Model", "calibrate", "converted", "fake_quantized", "hold", "refuse", "restored", "set_trainable"]

_HOMES = {
    "calibrate": "graph",
    "fake_quantized": "graph",
    "hold": "graph",
    "refuse": "graph",
    "set_trainable": "graph",
    "converted": "conversion",
    "restored": "conversion",
}


def __getattr__(name: str) -> Any:
    """The names that need ``torch.ao.quantization``; raises :class:`lloydmax.IntegrationError` where it is gone."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
