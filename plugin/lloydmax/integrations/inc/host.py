"""What is used of Intel Neural Compressor, in one place, and a clear error where it is absent."""

from __future__ import annotations

from lloydmax.errors import IntegrationError

try:
    from neural_compressor.common.base_config import BaseConfig, ComposableConfig, config_registry, register_config
    from neural_compressor.common.base_tuning import TuningMonitor
    from neural_compressor.common.utils import DEFAULT_WHITE_LIST, Mode, logger
    from neural_compressor.torch.quantization import load as inc_load
    from neural_compressor.torch.quantization import quantize
    from neural_compressor.torch.utils.utility import algos_mapping, register_algo
except ImportError as error:
    raise IntegrationError(
        f'Intel Neural Compressor 3 for PyTorch is not installed ({error}); run: pip install "lloydmax[inc]"'
    ) from error

NAME = "codebook"
"""The name of the configuration and of the algorithm in INC's registries."""

__all__ = [
    "DEFAULT_WHITE_LIST",
    "NAME",
    "BaseConfig",
    "ComposableConfig",
    "Mode",
    "TuningMonitor",
    "algos_mapping",
    "config_registry",
    "inc_load",
    "logger",
    "quantize",
    "register_algo",
    "register_config",
]
