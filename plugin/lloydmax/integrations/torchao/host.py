"""What is used of torchao, in one place, and a clear error where it is absent."""

from __future__ import annotations

import sys
from importlib import metadata

from lloydmax.errors import IntegrationError
from lloydmax.network.tracing import forget_graphs

try:
    from torchao.core.config import ALLOWED_AO_MODULES, AOBaseConfig
    from torchao.quantization import FqnToConfig, register_quantize_module_handler
    from torchao.quantization.pt2e import FakeQuantizeBase
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
        SharedQuantizationSpec,
    )
    from torchao.quantization.pt2e.utils import create_getattr_from_value
except ImportError as error:
    try:
        held = f"torchao {metadata.version('torchao')} lacks what is used of it ({error}); 0.16 to 0.18 have it"
    except metadata.PackageNotFoundError:
        held = "torchao is not installed"
    raise IntegrationError(f'{held}; run: pip install "lloydmax[torchao]"') from error

_DEVICES = {
    "torchao.utils": "_assert_and_get_unique_device",
    "torch.ao.quantization.fx.utils": "assert_and_get_unique_device",
}


def forget_models() -> None:
    """Let go of the models that the host has seen: it keeps them as keys of caches, from which only their devices are
    read. What others have in them is looked up anew."""
    for module, name in _DEVICES.items():
        if clear := getattr(getattr(sys.modules.get(module), name, None), "cache_clear", None):
            clear()
    forget_graphs()


__all__ = [
    "ALLOWED_AO_MODULES",
    "AOBaseConfig",
    "FakeQuantizeBase",
    "FqnToConfig",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "Quantizer",
    "SharedQuantizationSpec",
    "create_getattr_from_value",
    "forget_models",
    "register_quantize_module_handler",
]
