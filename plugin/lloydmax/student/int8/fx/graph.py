"""The fake-quantized graph: the int8 student while it is trained, in FX graph mode of ``torch.ao.quantization``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from torch import fx, nn

from lloydmax.errors import IntegrationError
from lloydmax.network.tracing import reshaped, traced
from lloydmax.runtime import machine
from lloydmax.runtime.quiet import quiet
from lloydmax.runtime.seeding import OwnGenerator, undrawn
from lloydmax.student.int8.fx.backend import backend_config
from lloydmax.student.int8.fx.host import (
    FuseCustomConfig,
    QConfigMapping,
    QuantizationTracer,
    forget_models,
    fuse,
    prepare,
    swap_functional,
)
from lloydmax.student.int8.fx.qconfigs import (
    held_qconfig,
    threshold_activation,
    threshold_qconfig_mapping,
    uniform_qconfig,
)
from lloydmax.student.int8.hosts import untraceable
from lloydmax.student.int8.weights import UNIFORM, QuantizedWeight, refuse
from lloydmax.student.thresholds import Scheme


def fake_quantized(
    model: nn.Module, weights: Mapping[str, QuantizedWeight], bits: Literal[8], scheme: Scheme
) -> fx.GraphModule:
    """See :meth:`lloydmax.student.int8.hosts.Host.fake_quantized`."""
    refuse(model, weights)
    uniform = any(weight.quantizer == UNIFORM for weight in weights.values())
    if (
        uniform
        and torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    ):
        raise IntegrationError(
            "int8 kernels of PyTorch refuse to run under torch.use_deterministic_algorithms(True): turn it off (the "
            "results are the same), or leave out 'activations:'"
        )
    mapping = threshold_qconfig_mapping(machine.weight_bits(), activation_bits=bits, activation_scheme=scheme)
    planned = {name.rpartition(".")[0] for name in weights}
    for name, module in model.named_modules():
        if module._parameters and name not in planned:
            mapping.set_module_name(name, None)
    activation = threshold_activation(bits, scheme)
    for weight in weights.values():
        layer = weight.name.rpartition(".")[0]
        uniform = weight.quantizer == UNIFORM
        made = (
            uniform_qconfig(weight, activation, model.get_submodule(layer))
            if uniform
            else held_qconfig(weight, activation)
        )
        mapping.set_module_name(layer, made)
    try:
        graph = _prepared(model, mapping)
    except Exception as error:
        raise untraceable(model, error) from error
    return graph.eval()


def _prepared(model: nn.Module, mapping: QConfigMapping) -> fx.GraphModule:
    """What ``prepare_qat_fx`` gives, traced so that no other thread notices."""
    tracer, backend = QuantizationTracer([], []), backend_config()
    swap_functional(model)
    ran = reshaped(undrawn(partial(traced, tracer, model.eval())))  # in evaluation mode
    graph = fx.GraphModule(model, ran)
    try:
        with OwnGenerator(), quiet(bars=False):
            fused = fuse(graph.train(), True, FuseCustomConfig(), backend)
            return prepare(fused, mapping, True, tracer.node_name_to_scope, (), backend_config=backend)
    finally:
        forget_models()
