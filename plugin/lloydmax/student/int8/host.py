"""What is used of ``torch.ao.quantization``, in one place, and a clear error where it is gone."""

from __future__ import annotations

import warnings

from lloydmax.errors import IntegrationError

warnings.warn(
    "torch.ao.quantization is deprecated upstream and may leave PyTorch; for new work use torchao: "
    "lloydmax.integrations.torchao has the same codebooks for quantize_ and PT2E",
    DeprecationWarning,
    stacklevel=2,
)
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch.ao.nn.intrinsic as nni
        import torch.ao.nn.quantized as nnq
        import torch.ao.quantization.quantize_fx  # noqa: F401  (a BackendConfig cannot be imported before it)
        from torch.ao.quantization import FakeQuantizeBase, QConfig, QConfigMapping
        from torch.ao.quantization.backend_config import (
            BackendConfig,
            BackendPatternConfig,
            DTypeConfig,
            get_native_backend_config,
        )
        from torch.ao.quantization.observer import PlaceholderObserver
        from torch.ao.quantization.quantization_mappings import get_default_static_quant_module_mappings
except (ImportError, AttributeError) as error:
    raise IntegrationError(
        f"this PyTorch has no torch.ao.quantization any more ({error}); "
        "use lloydmax.integrations.torchao: quantize_ or PT2E"
    ) from error

__all__ = [
    "BackendConfig",
    "BackendPatternConfig",
    "DTypeConfig",
    "FakeQuantizeBase",
    "PlaceholderObserver",
    "QConfig",
    "QConfigMapping",
    "get_default_static_quant_module_mappings",
    "get_native_backend_config",
    "nni",
    "nnq",
]
