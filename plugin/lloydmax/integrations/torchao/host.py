"""What is used of torchao, in one place, and a clear error where it is absent."""

from __future__ import annotations

from lloydmax.errors import IntegrationError

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
    raise IntegrationError(
        f'torchao is not installed, or too old ({error}); run: pip install "lloydmax[torchao]"'
    ) from error

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
    "register_quantize_module_handler",
]
