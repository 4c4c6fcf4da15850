"""Where the fake quantizers of activations go in a traced network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from lloydmax.student.int8.own.fake_quantizers import Bounded, Switched, Threshold
from lloydmax.student.int8.own.operations import BOUNDED, COMPUTES, FUSED, MANY, PASSES, RELU, RELU_OF_SUM, SUMS

_PREFIX = "activation_post_process_"


def place(graph: fx.GraphModule, layers: Collection[fx.Node], threshold: Callable[[], Threshold]) -> None:
    """Insert fake quantizers around the operations that are quantized, in place.

    Args:
        graph: traced or exported, batch norms folded.
        layers: what computes with a quantized weight; other layers, and modules with parameters, stay float.
        threshold: makes one.
    """
    _Placing(graph, layers, threshold).run()


def point_modules(graph: fx.GraphModule) -> dict[fx.Node, nn.Module]:
    """What :func:`place` has inserted, in the order of the graph."""
    return {node: graph.get_submodule(str(node.target)) for node in graph.graph.nodes if _is_point(node)}


def merged(graph: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Layers, norms, sums and products -> the ReLU that is computed with them, as nothing else uses them."""
    modules = dict(graph.named_modules())
    found: dict[fx.Node, fx.Node] = {}
    for node in reversed(graph.graph.nodes):
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or len(before.users) > 1 or len(node.args) > 1:
            continue
        key, own = key_of(before, modules), key_of(node, modules)
        if (own in RELU and key in FUSED) or (own in RELU_OF_SUM and key in SUMS):
            found[before] = node
    return found


class _Placing:
    """One graph on its way to thresholds."""

    def __init__(self, graph: fx.GraphModule, layers: Collection[fx.Node], threshold: Callable[[], Threshold]) -> None:
        self.graph, self.layers, self.threshold = graph, set(layers), threshold
        self.modules = dict(graph.named_modules())
        self.merged = merged(graph)
        self.count = 0

    def run(self) -> None:
        followed = set(self.merged.values())
        for node in list(self.graph.graph.nodes):
            key = self._quantized(node)
            if key is None or node in followed or not _has_tensors(node):
                continue
            if key not in BOUNDED and key is not nn.Embedding:
                self._observe_inputs(node, 2 if key in MANY else 1)
            last = self.merged.get(node, node)
            after = Bounded(*BOUNDED[key]) if key in BOUNDED else self.threshold()
            point = self._after(last, after)
            for user in list(last.users):
                if user is not point:
                    user.replace_input_with(last, point)
            passes = key in PASSES or (key in SUMS and sum(map(_has_tensors, _values(node.args))) == 1)
            if passes and not self._share(node, point):
                point.replace_all_uses_with(last)
                self.graph.graph.erase_node(point)
        self.graph.graph.lint()

    def _quantized(self, node: fx.Node) -> Any:
        """What is looked up of an operation, where it is quantized."""
        key = key_of(node, self.modules)
        if node in self.layers:
            return key if key is nn.Embedding else "layer"
        if node.op == "call_module" and self.modules[str(node.target)]._parameters:
            return None
        return key if key in COMPUTES or key in PASSES or key in BOUNDED else None

    def _observe_inputs(self, node: fx.Node, count: int) -> None:
        """Give the tensors among the first arguments a fake quantizer, but where they have one."""

        def observed(value: fx.Node) -> fx.Node:
            return self._observed(value) if _has_tensors(value) else value

        node.args = (*map_arg(node.args[:count], observed), *node.args[count:])

    def _observed(self, value: fx.Node) -> fx.Node:
        if _is_point(value):
            return value
        for user in value.users:
            if _is_point(user) and isinstance(self._module(user), Threshold):
                return user
        return self._after(value, self.threshold())

    def _after(self, value: fx.Node, quantizer: Switched) -> fx.Node:
        name = f"{_PREFIX}{self.count}"
        self.count += 1
        self.graph.add_submodule(name, quantizer)
        with self.graph.graph.inserting_after(value):
            return self.graph.graph.call_module(name, (value,))

    def _share(self, node: fx.Node, point: fx.Node) -> bool:
        """Give the inputs of an operation and its output the fake quantizer of the first input, if there is one."""
        given = next((arg for arg in node.args if isinstance(arg, (fx.Node, list, tuple))), None)
        inputs = list(given) if isinstance(given, (list, tuple)) else [given]
        points = [self._origin(value) for value in inputs]
        if not points or any(origin is None for origin in points):
            return False
        first: Any = points[0]
        for other in (*points[1:], point):
            setattr(self.graph, str(other.target), self._module(first))  # type: ignore[union-attr]
        return True

    def _origin(self, value: Any) -> fx.Node | None:
        """The fake quantizer that a value comes from."""
        while isinstance(value, fx.Node) and not _is_point(value):
            value = next((arg for arg in value.args if isinstance(arg, fx.Node)), None)
        return value

    def _module(self, node: fx.Node) -> nn.Module:
        return self.graph.get_submodule(str(node.target))


def _is_point(node: fx.Node) -> bool:
    return node.op == "call_module" and str(node.target).startswith(_PREFIX)


def key_of(node: fx.Node, modules: dict[str, nn.Module]) -> Any:
    """What tells an operation: the class of a module, a function, the name of a method."""
    if node.op == "call_module":
        return type(modules[str(node.target)]) if str(node.target) in modules else None
    return node.target if node.op in ("call_function", "call_method") else None


def _has_tensors(node: fx.Node) -> bool:
    """Whether a value is, or is computed from, a tensor, and not from sizes only."""
    if node.op in ("placeholder", "call_module", "get_attr"):
        return True
    if node.op == "call_method" and node.target == "size":
        return False
    if (node.target is getattr and node.args[1] != "T") or node.target is torch.ops.aten.sym_size.int:
        return False
    return any(_has_tensors(value) for value in _values(node.args))


def _values(args: Any) -> Iterator[fx.Node]:
    for arg in args:
        if isinstance(arg, fx.Node):
            yield arg
        elif isinstance(arg, (list, tuple)):
            yield from _values(arg)
