"""Attributes that the methods of a network write in evaluation mode, told from their source."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from torch import fx, nn

from lloydmax.network.reading import source_of

_MADE_IN = ("__init__", "reset_parameters", "load_state_dict", "_load_from_state_dict", "set_extra_state")
"""Methods that no forward pass calls."""


def written(model: nn.Module) -> frozenset[str]:
    """Names of attributes that forward methods may write, in place or anew: ``cache`` of ``self.cache[:, :n] = x``.

    What stands under ``if self.training`` does not count. Of graph modules, full names.

    Args:
        model: any.
    """
    found: set[str] = set()
    for prefix, module in model.named_modules():
        if isinstance(module, fx.GraphModule):
            found.update(f"{prefix}.{name}".lstrip(".") for name in _in_graph(module.graph))
        elif not type(module).__module__.startswith("torch.nn."):
            kind: Any = type(module)
            found |= _in_class(kind)
    return frozenset(found)


def _in_graph(graph: fx.Graph) -> Iterator[str]:
    """What a graph reads and hands to an operation that writes its first argument."""
    for node in graph.nodes:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        schema = getattr(node.target, "_schema", None)
        writes = schema.is_mutable if schema is not None else name == "setitem" or _in_place(name)
        if writes and node.op in ("call_function", "call_method"):
            yield from (str(read.target) for read in node.all_input_nodes[:1] if read.op == "get_attr")


@functools.lru_cache(maxsize=1024)
def _in_class(kind: Any) -> frozenset[str]:
    return frozenset(name for base in kind.__mro__ if issubclass(base, nn.Module) for name in _names(source_of(base)))


def _names(tree: ast.AST | None) -> Iterator[str]:
    if tree is None:
        return
    if isinstance(tree, ast.FunctionDef) and tree.name in _MADE_IN:
        return
    inner: Sequence[ast.AST] = list(ast.iter_child_nodes(tree))
    if isinstance(tree, ast.If) and any(_is_training(part) for part in _all_of(tree.test)):
        inner = tree.orelse
    for node in inner:
        yield from _names(node)
    if isinstance(tree, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
        for target in tree.targets if isinstance(tree, ast.Assign) else [tree.target]:
            yield from _attributes(target)
    elif isinstance(tree, ast.Call):
        name = tree.func.attr if isinstance(tree.func, ast.Attribute) else ""
        if _in_place(name) and isinstance(tree.func, ast.Attribute):
            yield from _attributes(tree.func.value)
            yield from (leaf for argument in tree.args[:1] for leaf in _attributes(argument))
        yield from (leaf for keyword in tree.keywords if keyword.arg == "out" for leaf in _attributes(keyword.value))


def _attributes(place: ast.AST) -> Iterator[str]:
    """The attributes that a place is, or is part of: ``cache`` of ``self.cache[0].data``."""
    if isinstance(place, (ast.Tuple, ast.List)):
        for part in place.elts:
            yield from _attributes(part)
    while isinstance(place, (ast.Subscript, ast.Attribute, ast.Starred)):
        if isinstance(place, ast.Attribute):
            yield place.attr
        place = place.value
    if isinstance(place, ast.Call) and isinstance(place.func, ast.Attribute):  # self.cache.narrow(0, 0, 1).copy_(x)
        yield from _attributes(place.func.value)


def _is_training(test: ast.AST) -> bool:
    return isinstance(test, ast.Attribute) and test.attr == "training"


def _all_of(test: ast.AST) -> list[ast.expr]:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return test.values
    return [test] if isinstance(test, ast.expr) else []


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__") and not name.startswith("_") and name != "requires_grad_"
