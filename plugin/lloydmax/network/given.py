"""What is given as a network: a module that can be walked through, or something else that a hint helps with."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lloydmax.errors import ModelError
from lloydmax.runtime.text import printable

_FRAMES = 4
"""Calls of Python within each other that one level of modules takes at least when it is copied."""


def network(given: Any, called: str = "the model") -> nn.Module:
    """What is given, if it is a network.

    Args:
        given: anything.
        called: the argument, for the message.

    Raises:
        ModelError: it is not an instance of ``nn.Module``; a module within it lies in itself, too deep to be copied,
            was not initialized, or cannot be hashed.
    """
    if not isinstance(given, nn.Module):
        raise ModelError(f"{called} is {_kind(given)}")
    around: list[tuple[nn.Module, str]] = []
    known: set[int] = set()
    waiting: list[tuple[nn.Module, str, int]] = [(given, "", 0)]
    while waiting:
        module, name, depth = waiting.pop()
        del around[depth:]
        if (outer := next((path for one, path in around if one is module), None)) is not None:
            raise ModelError(f"{called}: {name} is {outer or 'the network'} itself, which lies in itself: take it out")
        if id(module) in known:
            continue
        known.add(id(module))
        _check(module, name or called)
        if depth * _FRAMES > sys.getrecursionlimit():
            raise ModelError(
                f"{called} has modules that lie {depth} deep in each other, too deep for Python to copy them: put "
                "layers side by side, or call sys.setrecursionlimit"
            )
        around.append((module, name))
        inner = [
            (child, f"{name}.{leaf}".lstrip("."), depth + 1)
            for leaf, child in module._modules.items()
            if child is not None
        ]
        waiting += reversed(inner)
    return given


def refuse_lazy(model: nn.Module, called: str = "the model") -> None:
    """Refuse a model that has never been run.

    Args:
        model: any.
        called: the argument, for the message.

    Raises:
        ModelError: it names a parameter or buffer without shape and values.
    """
    held = (*model.named_parameters(), *model.named_buffers())
    if (lazy := next((name for name, tensor in held if is_lazy(tensor)), None)) is not None:
        raise ModelError(f"{called}: {lazy} is lazy, it has no values yet: run the model once before")


def _check(module: nn.Module, name: str) -> None:
    kind = type(module).__name__
    if type(module).__hash__ is None:
        raise ModelError(f"{name}: {kind} cannot be hashed, which torch needs: use dataclass(eq=False)")
    if getattr(module, "_modules", None) is None:
        raise ModelError(f"{name}: {kind} was not initialized: its __init__ has to call super().__init__()")


def _kind(given: Any) -> str:
    """What something else is, and what to give instead."""
    kind = type(given).__name__
    if isinstance(given, type):
        return f"the class {given.__name__}, not a network: make one of it, as in {given.__name__}(...)"
    if isinstance(given, (str, os.PathLike)):
        return (
            f"the path {printable(repr(os.fspath(given)))}, not a network: make the network and load its weights first"
        )
    if isinstance(given, Mapping) and given and all(isinstance(value, Tensor) for value in given.values()):
        return "a state dict, not a network: make the network, call its load_state_dict, and pass the network"
    if isinstance(owner := getattr(given, "__self__", None), nn.Module):
        return (
            f"the method {given.__name__} of {type(owner).__name__}, not a network: pass {type(owner).__name__} itself"
        )
    for name in ("model", "module"):
        if isinstance(getattr(given, name, None), nn.Module):
            return f"of type {kind}, not a network: pass its .{name}"
    if callable(getattr(given, "module", None)) and hasattr(given, "graph_module"):
        return f"of type {kind}, not a network: pass its .module(), or the nn.Module that it was made from"
    if isinstance(given, (list, tuple)) and any(isinstance(item, nn.Module) for item in given):
        return f"a {kind}, not a network: pass one nn.Module, such as torch.nn.Sequential(*layers)"
    if callable(given):
        return (
            f"{getattr(given, '__name__', kind)}, a {kind} and not a network: pass an nn.Module; if it makes one, pass "
            "what it gives"
        )
    return f"{'None' if given is None else f'of type {kind}'}, not a network: pass an nn.Module"
