"""The conversion of a fake-quantized graph to the int8 kernels of ``torch.ao.quantization``."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lloydmax.network.parameters import demote
from lloydmax.runtime.quiet import quiet
from lloydmax.runtime.seeding import OwnGenerator
from lloydmax.student.int8.fx.backend import backend_config
from lloydmax.student.int8.fx.host import convert, forget_models
from lloydmax.student.int8.graph import activation_points
from lloydmax.student.int8.model import Int8Model
from lloydmax.student.int8.weights import QuantizedWeight


def converted(graph: torch.fx.GraphModule, weights: Mapping[str, QuantizedWeight], skeleton: nn.Module) -> Int8Model:
    """See :meth:`lloydmax.student.int8.hosts.Host.converted`."""
    activations = activation_points(graph)
    used_up = [*graph.modules(), *skeleton.modules()]
    try:
        with OwnGenerator(), quiet(bars=False):
            kernels = convert(graph.cpu().eval(), backend_config=backend_config())
    finally:
        forget_models()
    demote(kernels)
    found = Int8Model.of(kernels, activations, weights, skeleton)
    _emptied(used_up, found)
    _freed(kernels)
    return found


def _emptied(used_up: Sequence[nn.Module], kept: nn.Module) -> None:
    """Let go of the tensors of modules that are used up: the host's references to them are circular, so that the memory
    of one model after another would wait for the garbage collector."""
    held = {id(module) for module in kept.modules()}
    for module in used_up:
        if id(module) not in held:
            vars(module).pop("qconfig", None)
            for part in (module._parameters, module._buffers, module._modules):
                part.clear()


def _freed(kernels: torch.fx.GraphModule) -> None:
    """Part the modules on kernels from those that the host made on the way to them, and from circular references of
    their own: they are gone as soon as nobody holds them."""
    held = {id(module._modules) for module in kernels.modules()}
    made = [child for module in kernels.modules() for child in module._modules.values()]
    for holder in gc.get_referrers(*made):
        if isinstance(holder, dict) and id(holder) not in held:
            holder.clear()
    kernels.graph.owning_module = None
