"""How graph modules use weights that no layer owns: the axis of their outputs, told from what reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn

from lloydmax.network.products import Along

_SAME = {"to", "detach", "clone", "contiguous", "cast", "identity", "_to_copy", "alias"}
_PRODUCTS = {"matmul": 0, "mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "gemm": 0}
"""Operations on two matrices, and the position of the left one."""


def output_axes(model: nn.Module) -> dict[int, dict[str, Along]]:
    """Where outputs lie, by the name of the weight in its module, by identity of the module. Of weights
    that several operations read in different ways there is none.

    Args:
        model: any; only graph modules in it are looked at.
    """
    found: dict[int, dict[str, Along]] = {}
    for graph_module in model.modules():
        if isinstance(graph_module, fx.GraphModule):
            modules = dict(graph_module.named_modules())
            for node in graph_module.graph.nodes:
                owner, leaf = _read(node, modules)
                held = None if owner is None else {**owner._parameters, **owner._buffers}.get(leaf)
                if owner is None or held is None or held.dim() < 2:
                    continue
                axes = set(_outputs(node, tuple(range(held.dim())), modules))
                if len(axes) == 1:
                    found.setdefault(id(owner), {})[leaf] = Along(axes.pop())
    return found


def _read(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[nn.Module | None, str]:
    """The module and the name of the tensor that a node is: one of the graph's, or that of a module that gives it."""
    if node.op == "get_attr":
        path, _, leaf = str(node.target).rpartition(".")
        return modules.get(path), leaf
    if node.op == "call_module" and not node.args and not node.kwargs:
        held = [leaf for leaf, _ in modules[str(node.target)].named_buffers()]
        return (modules[str(node.target)], held[0]) if len(held) == 1 else (None, "")
    return None, ""


def _outputs(node: fx.Node, order: tuple[int, ...], modules: Mapping[str, nn.Module]) -> Iterator[int]:
    """The axes of a weight along which the outputs of what reads it lie.

    Args:
        node: the weight, or what became of it.
        order: which axis of the weight each axis of the node is.
        modules: of the graph, by name.
    """
    for user in node.users:
        name, given = _operation(user, modules), list(user.args)
        position = next((at for at, argument in enumerate(given) if argument is node), -1)
        if name in _SAME:
            yield from _outputs(user, order, modules)
        elif (turned := _turned(name, user, order, modules)) is not None:
            yield from _outputs(user, turned, modules)
        elif name == "linear" or name.startswith("conv"):
            if position == 1:
                yield order[1 if "transpose" in name else 0]
        elif name in _PRODUCTS and len(order) > 1:
            if position == _PRODUCTS[name] + 1:
                yield order[-2 if getattr(modules.get(str(user.target)), "trans_b", False) else -1]
            elif position == _PRODUCTS[name]:
                yield order[-2]


def _turned(
    name: str, user: fx.Node, order: tuple[int, ...], modules: Mapping[str, nn.Module]
) -> tuple[int, ...] | None:
    """The order of the axes after a transposition; ``None``: it is another operation."""
    axes: Any = None
    if name in ("t", "numpy_t", "mt"):
        axes = tuple(reversed(range(len(order))))
    elif name == "permute":
        axes = user.args[1]
    elif name == "transpose" and user.op == "call_module":
        axes = getattr(modules[str(user.target)], "perm", None)
    elif name == "transpose" and len(user.args) == 3:
        swapped = list(range(len(order)))
        first, second = (int(axis) for axis in user.args[1:])  # type: ignore[arg-type]
        swapped[first], swapped[second] = swapped[second], swapped[first]
        axes = swapped
    return tuple(order[int(axis)] for axis in axes) if isinstance(axes, (list, tuple)) else None


def _operation(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """The name of an operation without what tells its origin: ``matmul`` of ``OnnxMatMul`` and ``aten::matmul``."""
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__.lower().removeprefix("onnx")
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else getattr(node.target, "__name__", str(node.target))
    return str(name).rpartition("::")[2].lower()
