"""Symbolic tracing that no other thread notices.

``torch.fx`` replaces ``nn.Module.__call__``, functions of ``math`` and whatever ``torch.fx.wrap``
names for the whole process while it runs; a thread that serves a model meanwhile gets a wrong graph, or fails. Here
nothing that others can see is replaced: the modules of a tree of one's own get classes of their own, whose methods run
with globals of their own.
"""

from __future__ import annotations

import builtins
import linecache
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace as symbolic
from torch.fx import graph_module

_unused: frozenset[str] = frozenset()
_MATH = {name: value for name, value in vars(math).items() if isinstance(value, BuiltinFunctionType)}


def traced(tracer: fx.Tracer, tree: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
    """The graph of a model; what ``tracer.trace(tree, concrete_args)`` gives.

    Args:
        tracer: decides which modules are single nodes.
        tree: no other thread may use it meanwhile; left as it was.
        concrete_args: arguments of the forward method that are not inputs of the graph, by name.
    """
    tracer.root, tracer.root_module_name = tree, type(tree).__name__
    tracer.submodule_paths = {module: name for name, module in tree.named_modules()}
    tracer.graph = fx.Graph(tracer_cls=type(tracer))
    tracer.tensor_attrs = dict(_tensor_attributes(tree))
    with _own_classes(tracer, tree):
        forward, arguments = tracer.create_args_for_root(type(tree).forward, True, concrete_args)
        tracer.create_node("output", "output", (tracer.create_arg(forward(*arguments)),), {})
    tracer.submodule_paths = None
    return tracer.graph


def reshaped(graph: fx.Graph) -> fx.Graph:
    """The same graph, in place, with ``x.view(sizes)`` as ``x.reshape(sizes)``: integer kernels choose an order of
    values in memory, of which ``view`` may have none to give."""
    for node in graph.nodes:
        sizes = not node.kwargs and not any(isinstance(argument, torch.dtype) for argument in node.args)
        if node.op == "call_method" and node.target == "view" and sizes:
            node.target = "reshape"
    return graph


def forget_graphs() -> None:
    """Let go of what torch keeps of graphs that are gone: for tracebacks the source of every graph module that there
    was, and for symbolic shapes, as keys of caches, all that an export knew of them. No one misses anything: caches
    fill again, and a source goes when no graph module had it at the last call either.
    """
    global _unused
    loader = getattr(graph_module, "_loader", None)
    sources: dict[str, str] = getattr(loader, "eval_cache", {})
    used = {_file_of(vars(kind).get("forward")) for kind in _kinds(fx.GraphModule)}
    unused = frozenset(name for name in list(sources) if name.startswith("<eval_with_key>")) - used
    for name in unused & _unused:
        sources.pop(name, None)
        linecache.cache.pop(name, None)
    _unused = unused
    shapes: Any = sys.modules.get("torch.fx.experimental.symbolic_shapes")
    for method in () if shapes is None else list(vars(shapes.ShapeEnv).values()):
        if clear := getattr(method, "cache_clear", None):
            clear()


def _kinds(kind: type[Any]) -> Iterator[type[Any]]:
    """A class and all that are derived from it."""
    yield kind
    for derived in kind.__subclasses__():
        yield from _kinds(derived)


def _file_of(function: Any) -> str:
    """Where the code of a function is from; nothing where there is none."""
    return str(getattr(getattr(function, "__code__", None), "co_filename", ""))


def _tensor_attributes(tree: nn.Module) -> Iterator[tuple[Any, str]]:
    """Tensors that are plain attributes of modules, with their names."""
    for prefix, module in tree.named_modules(remove_duplicate=False):
        for name, value in vars(module).items():
            if isinstance(value, (Tensor, torch.ScriptObject)):
                yield value, f"{prefix}.{name}".lstrip(".")


@contextmanager
def _own_classes(tracer: fx.Tracer, tree: nn.Module) -> Iterator[None]:
    """Every module of the tree in a subclass of its class that records calls and the use of parameters."""
    parameters: dict[str, fx.Proxy] = {}
    recording, rewriting = [tracer], _Rewriting()

    def call(original: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return recording[0].call_module(module, partial(original, module), args, kwargs)

        return recorded

    def attribute(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda module, name: recording[0].getattr(name, original(module, name), parameters)

    own: dict[type, type] = {}
    classes = [(module, type(module)) for module in tree.modules()]
    try:
        for module, kind in classes:
            if kind not in own:
                methods = rewriting.methods(kind)
                methods |= {"__call__": call(kind.__call__), "__getattr__": attribute(kind.__getattr__)}
                names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
                own[kind] = type(kind.__name__, (kind,), {**methods, **names})
            module.__class__ = own[kind]
        yield
    finally:
        for module, kind in classes:
            module.__class__ = kind
        recording.clear()  # classes live until the next collection of garbage; the tree need not
        parameters.clear()
        kinds = {mine: kind for kind, mine in own.items()}
        stacks = [node.meta["nn_module_stack"] for node in tracer.graph.nodes if "nn_module_stack" in node.meta]
        for named in (tracer.node_name_to_scope, *stacks):
            for name, (path, kind) in named.items():
                named[name] = path, kinds.get(kind, kind)


class _Rewriting:
    """Copies of functions in which those of ``math``, and those named by ``torch.fx.wrap``, are recorded by a trace."""

    def __init__(self) -> None:
        recorded = {name: symbolic._create_wrapped_func(function) for name, function in _MATH.items()}
        self._recorded: dict[int, Any] = {id(function): recorded[name] for name, function in _MATH.items()}
        self._recorded[id(math)] = SimpleNamespace(**{**vars(math), **recorded})
        self._wrapped = set(symbolic._wrapped_fns_to_patch)
        self._copies: dict[int, tuple[FunctionType, FunctionType]] = {}

    def methods(self, kind: type) -> dict[str, Any]:
        """The methods of a class that reach such functions, copied."""
        methods = {name: getattr(kind, name, None) for name in dir(kind) if not name.startswith("__")}
        functions = {name: method for name, method in methods.items() if isinstance(method, FunctionType)}
        copies = {name: self._copy(function) for name, function in functions.items()}
        return {name: copy for name, copy in copies.items() if copy is not functions[name]}

    def _copy(self, function: FunctionType) -> FunctionType:
        """The function, or a copy where something that it names or encloses has to be recorded."""
        if id(function) in self._copies:
            return self._copies[id(function)][1]
        if (function.__module__ or "").partition(".")[0] == "torch":
            return function
        self._copies[id(function)] = function, function  # where it reaches itself
        new = {name: value for name in _names(function.__code__) if (value := self._global(function, name)) is not None}
        cells = tuple(map(self._cell, function.__closure__ or ()))
        if not new and cells == (function.__closure__ or ()):
            return function
        place = {**function.__globals__, **new}
        copied = FunctionType(function.__code__, place, function.__name__, function.__defaults__, cells)
        copied.__kwdefaults__, copied.__dict__ = function.__kwdefaults__, dict(vars(function))
        copied.__annotations__ = function.__annotations__
        self._copies[id(function)] = function, copied
        return copied

    def _global(self, function: FunctionType, name: str) -> Any:
        """What a function finds under a global name while it is traced; ``None``: what it always does."""
        place = function.__globals__
        value = place.get(name, getattr(builtins, name, None))
        if (id(place), name) in self._wrapped:
            return symbolic._create_wrapped_func(value)  # type: ignore[arg-type]
        return self._of(value)

    def _cell(self, cell: CellType) -> CellType:
        new = self._of(cell.cell_contents) if cell != CellType() else None
        return cell if new is None else CellType(new)

    def _of(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            copied = self._copy(value)
            return None if copied is value else copied
        return self._recorded.get(id(value))


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function and those defined inside it ask for."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
