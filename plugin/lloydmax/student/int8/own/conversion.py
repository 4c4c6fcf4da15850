"""The trained graph as it is run: integers between the quantized operations, floats in the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from lloydmax.student.fake_quantize import CodebookWeightFakeQuantize
from lloydmax.student.int8.graph import activation_points
from lloydmax.student.int8.model import Int8Model
from lloydmax.student.int8.own.fake_quantizers import Bounded, Threshold
from lloydmax.student.int8.own.grids import Clamp, Dequantize, Grid, Quantize, Sum
from lloydmax.student.int8.own.layers import FakeQuantizedLayer, IntegerLayer
from lloydmax.student.int8.own.operations import ADDS, CLAMPS, JOINS, MOVES, RELU, RELU_OF_SUM
from lloydmax.student.int8.own.placing import key_of
from lloydmax.student.int8.weights import QuantizedWeight, levels_of
from lloydmax.student.layers import LAYERS, CodebookTensor


def converted(graph: fx.GraphModule, weights: Mapping[str, QuantizedWeight], skeleton: nn.Module) -> Int8Model:
    """See :meth:`lloydmax.student.int8.hosts.Host.converted`."""
    activations = activation_points(graph)
    with torch.no_grad():
        running = _Conversion(graph.cpu().eval(), weights).run()
    return Int8Model.of(running, activations, weights, skeleton)


class _Conversion:
    """One graph on its way to integers, in place."""

    def __init__(self, graph: fx.GraphModule, weights: Mapping[str, QuantizedWeight]) -> None:
        self.graph, self.weights = graph, weights
        self.modules: dict[str, Any] = dict(graph.named_modules(remove_duplicate=False))
        self.points = [node for node in graph.graph.nodes if isinstance(self._module(node), (Threshold, Bounded))]
        self.grids = {node: _grid(self._module(node)) for node in self.points}
        self.integers: dict[fx.Node, fx.Node] = {}

    def run(self) -> fx.GraphModule:
        """What runs."""
        layers = [node for node in self.graph.graph.nodes if isinstance(self._module(node), FakeQuantizedLayer)]
        running = {node: self._layer(node) for node in layers}
        for point in self.points:
            self.integers[point] = self._integers(point, running)
            for user in list(point.users):
                if isinstance(running.get(user), IntegerLayer):
                    user.replace_input_with(point, self.integers[point])
        for point in self.points:
            if point.users:
                point.replace_all_uses_with(self._inserted(point, Dequantize(self.grids[point]), self.integers[point]))
            self.graph.graph.erase_node(point)
        self.graph.graph.eliminate_dead_code()
        for node in self.graph.graph.nodes:
            node.type = None  # an annotation that is a string cannot be pickled with torch 2.12
        self.graph.graph.lint()
        made = fx.GraphModule(self.graph, self.graph.graph)
        made.graph.owning_module = None  # nothing circular, so that it is gone as soon as nobody holds it
        return made

    def _module(self, node: fx.Node) -> Any:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def _layer(self, node: fx.Node) -> nn.Module:
        """The layer as it is run, in place of the one that was trained, which may stand in several places."""
        name, trained = str(node.target), self._module(node)
        quantizer = trained.weight_fake_quant
        if isinstance(quantizer, CodebookWeightFakeQuantize):
            tensors = {"weight": CodebookTensor(quantizer.codebook())}
            made: nn.Module = LAYERS[type(trained.original)](trained.original, tensors)
        else:
            levels = levels_of(self.weights[f"{name}.weight"])
            made = IntegerLayer.of(trained, levels, self.grids[node.args[0]], self._takes_relu(node))
        if isinstance(self.graph.get_submodule(name), FakeQuantizedLayer):
            self.graph.set_submodule(name, made)
        elif isinstance(made, IntegerLayer):
            node.target = self._named(f"{name.replace('.', '_')}_again", made)
        return made

    def _takes_relu(self, node: fx.Node) -> bool:
        """Whether a ReLU and nothing else follows; it is then left out of the graph."""
        after, *others = node.users
        if others or key_of(after, self.modules) not in RELU or len(after.args) > 1:
            return False
        after.replace_all_uses_with(node)
        self.graph.graph.erase_node(after)
        return True

    def _integers(self, point: fx.Node, running: Mapping[fx.Node, nn.Module]) -> fx.Node:
        """The integers of a quantized activation: what computes it gives them, or they are rounded."""
        value: Any = point.args[0]
        if value in self.integers and self.grids[value] == self.grids[point]:
            return self.integers[value]
        if list(value.users) == [point]:
            layer = running.get(value)
            if isinstance(layer, IntegerLayer):
                layer.gives = self.grids[point]
                return value
            if self._moves(value, self.grids[point]):
                return value
            if (found := self._sum(value, point) or self._clamp(value, point)) is not None:
                return found
        return self._inserted(point, Quantize(self.grids[point]), value)

    def _moves(self, value: fx.Node, grid: Grid) -> bool:
        """Make an operation that only moves values move integers, where all that it is given is on the same grid."""
        key = key_of(value, self.modules)
        given: Any = value.args[0] if value.args else None
        given = list(given) if key in JOINS and isinstance(given, (list, tuple)) else [given]
        if key not in MOVES or any(self.grids.get(part) != grid for part in given):
            return False
        for part in given:
            value.replace_input_with(part, self.integers[part])
        return True

    def _sum(self, value: fx.Node, point: fx.Node) -> fx.Node | None:
        """The sum of two quantized activations, and a ReLU that only it has, in integers."""
        relu = key_of(value, self.modules) in RELU_OF_SUM and len(value.args) == 1
        added: Any = value.args[0] if relu else value
        if not isinstance(added, fx.Node) or key_of(added, self.modules) not in ADDS or added.kwargs:
            return None
        if len(added.users) > 1 or not all(part in self.integers for part in added.args):
            return None
        one, other = added.args
        module = Sum(self.grids[one], self.grids[other], self.grids[point], relu)
        return self._inserted(point, module, self.integers[one], self.integers[other])  # type: ignore[index]

    def _clamp(self, value: fx.Node, point: fx.Node) -> fx.Node | None:
        """What cuts off a quantized activation, on the same grid, in integers."""
        limits = CLAMPS.get(key_of(value, self.modules))
        given = value.args[0] if value.args else None
        if limits is None or self.grids.get(given) != self.grids[point]:
            return None
        return self._inserted(point, Clamp(self.grids[point], *limits), self.integers[given])  # type: ignore[index]

    def _inserted(self, point: fx.Node, module: nn.Module, *values: fx.Node) -> fx.Node:
        name = self._named(f"{type(module).__name__.lower()}", module)
        with self.graph.graph.inserting_before(point):
            return self.graph.graph.call_module(name, values)

    def _named(self, prefix: str, module: nn.Module) -> str:
        number = 0
        while hasattr(self.graph, name := f"{prefix}_{number}"):
            number += 1
        self.graph.add_submodule(name, module)
        return name


def _grid(threshold: Any) -> Grid:
    scale, zero_point = threshold.calculate_qparams()
    return Grid(float(scale), int(zero_point))
