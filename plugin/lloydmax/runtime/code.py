"""What tells functions and classes apart: their code, wherever their file lies."""

from __future__ import annotations

import dis
import functools
import importlib.metadata
import sys
import sysconfig
from collections.abc import Iterator
from importlib.abc import InspectLoader
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

_CACHED = 1 << 12
"""Code objects that are known at a time."""
_OURS = ("lloydmax", "lloydmax_strategies")
_FOLDERS = frozenset(("site-packages", "dist-packages"))
"""What folders of installed packages are called."""
_LOADS = frozenset(("LOAD_GLOBAL", "LOAD_NAME"))
_NO_CODE = frozenset((
    "__annotations__", "__dict__", "__doc__", "__firstlineno__", "__module__", "__orig_bases__", "__parameters__",
    "__qualname__", "__slotnames__", "__static_attributes__", "__weakref__",
))  # fmt: skip
"""What Python keeps in classes beside what somebody wrote that runs."""


@functools.cache
def library(module: str | None) -> str | None:
    """Name and version of the installed package that a module is of, or of Python; ``None``: it is the user's own
    code, which may change from one run to the next."""
    root = (module or "").partition(".")[0]
    if not root or root == "__main__":
        return None
    if root in sys.builtin_module_names or root in sys.stdlib_module_names:
        return f"python {sys.version_info.major}.{sys.version_info.minor}"
    if root in _OURS:
        return f"{root} {version(_OURS[0])}"
    loaded = sys.modules.get(root)
    places = getattr(loaded, "__path__", None) or [getattr(loaded, "__file__", None) or ""]
    if loaded is None and (spec := PathFinder.find_spec(root)) is not None:
        places = spec.submodule_search_locations or [spec.origin or ""]
    if not any(map(_is_installed, places)):
        return None
    return f"{root} {version(root) or getattr(loaded, '__version__', None)}"


def version(distribution: str) -> str | None:
    """Of an installed distribution; ``None``: there is none of this name."""
    try:
        return importlib.metadata.version(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


VERSION = version(_OURS[0]) or "unknown"
"""Of lloydmax itself; ``"unknown"`` where it runs without being installed."""


def _is_installed(place: str) -> bool:
    """Whether packages are installed there: of this Python, of the user, or of another environment on the path."""
    path = Path(place).resolve()
    own = (Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib"))
    return not _FOLDERS.isdisjoint(path.parts) or any(map(path.is_relative_to, own))


@functools.lru_cache(_CACHED)
def told(code: CodeType) -> tuple[Any, ...]:
    """What a code object does: bytecode, constants and names, without files and lines. It holds for one version of
    Python, whose number is a part of it."""
    constants = tuple(told(one) if isinstance(one, CodeType) else one for one in code.co_consts)
    return (
        sys.version_info[:2], code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars,
        code.co_cellvars, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags,
        code.co_exceptiontable,
    )  # fmt: skip


class Names(NamedTuple):
    """What code asks for, sorted; functions in it included.

    Attributes:
        read: global names.
        asked: attributes, of whatever it may be.
        imported: modules that it imports itself, with the number of leading dots; of ``from a import b`` also ``a.b``.
    """

    read: tuple[str, ...]
    asked: tuple[str, ...]
    imported: tuple[tuple[str, int], ...]


@functools.lru_cache(_CACHED)
def names(code: CodeType) -> Names:
    """What a code object asks for."""
    loaded, asked, imported = set(), set(), set()
    before: list[Any] = [0, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname in _LOADS:
            loaded.add(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            asked.add(instruction.argval)
        elif instruction.opname == "IMPORT_NAME":
            level, parts = before
            names_in = (f"{instruction.argval}.{part}".lstrip(".") for part in parts or ())
            imported |= {
                (name, level) for name in (instruction.argval.partition(".")[0], instruction.argval, *names_in)
            }
        if instruction.opname != "EXTENDED_ARG":
            before = [before[1], instruction.argval]
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more = names(inner)
            loaded |= set(more.read)
            asked |= set(more.asked)
            imported |= set(more.imported)
    return Names(tuple(sorted(loaded)), tuple(sorted(asked)), tuple(sorted(imported)))


def imports(code: CodeType, package: str | None) -> Iterator[str]:
    """The modules of the user that code in a package imports when it runs, in full, whether they are there or not."""
    for name, level in names(code).imported:
        parents = (package or "").split(".")
        parents = parents[: len(parents) + 1 - level] if level else []
        full = ".".join([*parents, name] if name else parents)
        if library(full) is None:
            yield full


def written(module: str) -> CodeType | None:
    """The code of a module that is not loaded, found without running anything; ``None``: there is none."""
    parts = module.split(".")
    places: list[str] | None = None
    try:
        for count in range(1, len(parts)):
            package = PathFinder.find_spec(".".join(parts[:count]), places)
            places = None if package is None else package.submodule_search_locations
            if places is None:
                return None
        spec = PathFinder.find_spec(module, places)
        return spec.loader.get_code(module) if spec and isinstance(spec.loader, InspectLoader) else None
    except (ImportError, KeyError, OSError, SyntaxError, ValueError):  # KeyError: folders within a package not loaded
        return None


def of_library(function: FunctionType) -> str | None:
    """:func:`library` of a function, by where it was written, whatever wrappers say."""
    return library(function.__globals__.get("__name__"))


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """What a class says itself, sorted by name: functions out of their wrappers, and other values. Of a class of a
    library only what others put there."""
    installed = library(cls.__module__) is not None
    for name, value in sorted(vars(cls).items()):
        if name in _NO_CODE or name.startswith(("_abc_", "__abstract", "__annotate", "__dataclass", "__match")):
            continue
        for function in _functions(value):
            if not (installed and (not isinstance(function, FunctionType) or of_library(function))):
                yield name, function


def _functions(value: Any) -> Iterator[Any]:
    if isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (one for one in (value.fget, value.fset) if one is not None)
    elif isinstance(value, functools.cached_property):
        yield value.func
    elif isinstance(value, functools.singledispatchmethod):
        yield from value.dispatcher.registry.items()
    else:
        yield value
