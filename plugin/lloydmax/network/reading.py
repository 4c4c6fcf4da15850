"""The source of classes and functions, as syntax trees."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Mapping
from types import FunctionType, MappingProxyType
from typing import Any

_NONE: Mapping[str, ast.FunctionDef] = MappingProxyType({})


@functools.lru_cache(maxsize=1024)
def source_of(kind: Any) -> ast.AST | None:
    """The syntax tree of a class or function; ``None``: it is one of torch, made in a shell, or compiled."""
    if str(getattr(kind, "__module__", "")).partition(".")[0] == "torch":
        return None
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None


def method(kind: type, name: str) -> ast.FunctionDef | None:
    """The method of this name that objects of a class have, as it is written; decorators are not looked into."""
    for base in kind.__mro__:
        if name in vars(base):
            return _methods(base).get(name)
    return None


def function(found: Any) -> ast.FunctionDef | None:
    """A plain function, as it is written."""
    tree = source_of(found) if isinstance(found, FunctionType) else None
    body = tree.body[0] if isinstance(tree, ast.Module) and tree.body else None
    return body if isinstance(body, ast.FunctionDef) else None


@functools.lru_cache(maxsize=1024)
def _methods(kind: type) -> Mapping[str, ast.FunctionDef]:
    tree = source_of(kind)
    body = tree.body[0] if isinstance(tree, ast.Module) and tree.body else None
    if not isinstance(body, ast.ClassDef):
        return _NONE
    return {one.name: one for one in body.body if isinstance(one, ast.FunctionDef)}
