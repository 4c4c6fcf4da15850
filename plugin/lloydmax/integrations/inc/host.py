"""What is used of Intel Neural Compressor, in one place, and a clear error where it is absent."""

from __future__ import annotations

import sys
from inspect import CO_OPTIMIZED
from types import FrameType
from typing import Any, TypeVar

from torch import nn

from lloydmax.integrations.absent import absent

try:
    from neural_compressor.common.base_config import BaseConfig, ComposableConfig, config_registry, register_config
    from neural_compressor.common.base_tuning import TuningMonitor
    from neural_compressor.common.utils import DEFAULT_WHITE_LIST, Mode, logger
    from neural_compressor.torch.quantization import get_woq_tuning_config as inc_woq_tuning_config
    from neural_compressor.torch.quantization import load as inc_load
    from neural_compressor.torch.quantization import quantize
    from neural_compressor.torch.utils import ProcessorType, dump_model_op_stats, get_processor_type_from_user_config
    from neural_compressor.torch.utils.constants import LM_HEAD_NAMES
    from neural_compressor.torch.utils.utility import algos_mapping, register_algo
except ImportError as error:
    raise absent("Intel Neural Compressor", ("neural-compressor", "neural-compressor-pt"), "inc", error) from error

NAME = "codebook"
"""The name of the configuration and of the algorithm in INC's registries."""

_AUTOTUNE = "neural_compressor.torch.quantization.autotune"
_WRITER = "neural_compressor.torch.algorithms.weight_only.save_load"
_PACKAGES = ("neural_compressor", "auto_round", "auto_round_extension")
T = TypeVar("T")


def theirs(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that INC's own algorithms made, without what is inside of them, by name."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if type(module).__module__.partition(".")[0] in _PACKAGES and not name.startswith(
            tuple(f"{outer}." for outer in found)
        ):
            found[name] = module
    return found


def layer_classes() -> dict[str, Any]:
    """INC's layers that can be built again, by class name; INC itself imports them only where it needs them."""
    from neural_compressor.torch.algorithms.mixed_precision.module_wrappers import HalfPrecisionModuleWrapper
    from neural_compressor.torch.algorithms.weight_only.modules import INCWeightOnlyLinear, MulLinear

    return {kind.__name__: kind for kind in (HalfPrecisionModuleWrapper, INCWeightOnlyLinear, MulLinear)}


def asking(kind: type[T]) -> T | None:
    """The object of INC's whose method has called the caller of this function; ``None``: none of this kind.

    INC tells a configuration neither what it is combined with nor what it is tried for.
    """
    asks = _names(sys._getframe(2)).get("self")
    return asks if isinstance(asks, kind) else None


def tuning() -> dict[str, Any]:
    """What INC's ``autotune`` works with where this thread is inside of it, to be read only: ``tuning_monitor`` with
    the baseline and the results, ``eval_fn``, and the ``model`` whose copies are tried; else nothing."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "autotune" and frame.f_globals.get("__name__") == _AUTOTUNE:
            names = _names(frame)
            return {name: names[name] for name in ("tuning_monitor", "eval_fn", "model") if name in names}
        frame = frame.f_back
    return {}


def writing() -> bool:
    """Whether this thread is inside of the writer of INC's weight-only algorithms, which loses codebooks."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "save" and frame.f_globals.get("__name__") == _WRITER:
            return True
        frame = frame.f_back
    return False


def _names(frame: FrameType) -> dict[str, Any]:
    """The local names of a function that runs; up to Python 3.12 the frame itself would keep what they refer to."""
    held = frame.f_locals
    names = dict(held)
    if isinstance(held, dict) and frame.f_code.co_flags & CO_OPTIMIZED:
        held.clear()
    return names


__all__ = [
    "DEFAULT_WHITE_LIST",
    "LM_HEAD_NAMES",
    "NAME",
    "BaseConfig",
    "ComposableConfig",
    "Mode",
    "ProcessorType",
    "TuningMonitor",
    "algos_mapping",
    "asking",
    "config_registry",
    "dump_model_op_stats",
    "get_processor_type_from_user_config",
    "inc_load",
    "inc_woq_tuning_config",
    "layer_classes",
    "logger",
    "quantize",
    "register_algo",
    "register_config",
    "theirs",
    "tuning",
    "writing",
]
