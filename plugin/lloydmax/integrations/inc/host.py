"""What is used of Intel Neural Compressor, in one place, and a clear error where it is absent."""

from __future__ import annotations

import gc

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


def monitors() -> list[TuningMonitor]:
    """The monitors of all calls of INC's ``autotune`` in this process, to be read only.

    A monitor has the baseline and the results. INC tells them to no configuration, and gives the monitor to nobody,
    so they are looked up among what refers to their class. (One that another thread is just making is left out.)
    ``gc.get_objects`` is not used: it refers to all objects for a moment, which breaks tuples that other threads make.
    """
    found = [thing for thing in gc.get_referrers(TuningMonitor) if type(thing) is TuningMonitor]
    return [monitor for monitor in found if hasattr(monitor, "tuning_config")]


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
    "monitors",
    "quantize",
    "register_algo",
    "register_config",
]
