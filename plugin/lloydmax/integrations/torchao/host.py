"""What is used of torchao, in one place, and a clear error where it is absent."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import torch
from torch import Tensor

from lloydmax.integrations.absent import absent
from lloydmax.network.tracing import forget_graphs
from lloydmax.runtime import machine

try:
    from torchao.core.config import ALLOWED_AO_MODULES, AOBaseConfig
    from torchao.quantization import FqnToConfig, register_quantize_module_handler
    from torchao.quantization.pt2e import FakeQuantizeBase, ObserverBase
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
        SharedQuantizationSpec,
    )
    from torchao.quantization.pt2e.utils import create_getattr_from_value
except ImportError as error:
    raise absent("torchao", ("torchao",), "torchao", error) from error

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


class OfTorchao(ObserverBase):
    """A part of our fake quantizers, which observes nothing: programs without an observer of its own classes torchao
    0.15 gives to the ``convert_pt2e`` of ``torch.ao``, which leaves ours as they are and says nothing."""

    def __init__(self) -> None:
        super().__init__(dtype=torch.uint8)

    def forward(self, x: Tensor) -> Tensor:
        """The same."""
        return x

    def calculate_qparams(self, **kwargs: Any) -> None:
        """Nothing."""


def know_kernels() -> None:
    """Have inductor find its int8 kernels in programs: torchao teaches it when its own quantizer for x86 is imported,
    and without that ``torch.compile`` computes in floats."""
    if machine.is_x86():
        with contextlib.suppress(ImportError):
            import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401


__all__ = [
    "ALLOWED_AO_MODULES",
    "AOBaseConfig",
    "FakeQuantizeBase",
    "FqnToConfig",
    "OfTorchao",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "Quantizer",
    "SharedQuantizationSpec",
    "create_getattr_from_value",
    "forget_models",
    "know_kernels",
    "register_quantize_module_handler",
]
