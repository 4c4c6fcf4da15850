"""In which precision a student is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lloydmax.extend import Channels
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


def prefers_bfloat16(model: nn.Module, device: torch.device) -> bool:
    """Whether training is expected to be faster in bfloat16: a rule of the hardware, not a timing, so that the same
    machine always decides alike. The fake quantizers of torch.ao and torchao compute in float32 only."""
    if is_float16(model) or any(hasattr(module, "fake_quant_enabled") for module in model.modules()):
        return False
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _native_bfloat16()


def is_float16(model: nn.Module) -> bool:
    """Whether a model holds float16 values, which norms do not take beside the bfloat16 ones of autocast."""
    return any(parameter.dtype == torch.float16 for parameter in model.parameters())


@contextmanager
def depthwise_in_float32(device: torch.device, *models: nn.Module) -> Iterator[None]:
    """Under autocast on the CPU, whose bfloat16 kernels for depthwise convolutions are slow, run these in float32;
    their outputs get the dtype of their inputs. On other devices nothing changes."""
    modules = [m for model in models for m in model.modules() if device.type == "cpu" and isinstance(m, _ConvNd)]
    layers: list[Any] = [m for m in modules if Channels(m).depthwise and "forward" not in m.__dict__]
    try:
        for layer in layers:
            layer.forward = partial(_widened, layer.forward)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _widened(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).to(x.dtype)


def _native_bfloat16() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(probe())
