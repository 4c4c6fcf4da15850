"""The fake-quantized graph: the int8 student while it is trained, by plain PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from torch import fx, nn

from lloydmax.network.tracing import reshaped, traced
from lloydmax.runtime.modes import device_of
from lloydmax.runtime.seeding import undrawn
from lloydmax.student.int8.hosts import untraceable
from lloydmax.student.int8.own.fake_quantizers import HeldCodebook, Threshold
from lloydmax.student.int8.own.layers import FakeQuantizedLayer
from lloydmax.student.int8.own.placing import place
from lloydmax.student.int8.weights import UNIFORM, QuantizedWeight, refuse
from lloydmax.student.thresholds import Scheme


def fake_quantized(
    model: nn.Module, weights: Mapping[str, QuantizedWeight], bits: Literal[8], scheme: Scheme
) -> fx.GraphModule:
    """See :meth:`lloydmax.student.int8.hosts.Host.fake_quantized`."""
    refuse(model, weights)
    where = {"device": device_of(model)}
    try:
        graph = fx.GraphModule(model, reshaped(undrawn(partial(traced, fx.Tracer(), model))))
        layers = {weight.name.rpartition(".")[0]: weight for weight in weights.values()}
        nodes = [node for node in graph.graph.nodes if node.op == "call_module" and node.target in layers]
        place(graph, nodes, partial(Threshold, bits, scheme, weights=False, factory_kwargs=where))
    except Exception as error:
        raise untraceable(model, error) from error
    for name, weight in layers.items():
        layer = FakeQuantizedLayer(graph.get_submodule(name), _quantizer(weight, where))
        graph.set_submodule(name, layer)
    return fx.GraphModule(graph, graph.graph).eval()  # modules in the order of the graph, as files have the activations


def _quantizer(weight: QuantizedWeight, where: dict[str, Any]) -> nn.Module:
    """The fake quantizer of a weight."""
    layout = weight.layout
    if weight.quantizer == UNIFORM:
        options = weight.options
        given = options.bits, options.scheme, layout.granularity
        return Threshold(*given, axis=layout.axis, factory_kwargs=where)
    return HeldCodebook(layout.centroids, layout.granularity, axis=layout.axis, factory_kwargs=where)
