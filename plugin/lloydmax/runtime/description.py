"""Digests of anything that a run depends on: the same for the same content in every process, else another one.

Tensors, arrays and plain data count by their values; functions and classes of the user by their code, defaults,
closures and the globals that they read; those of installed packages by name and version; other objects by class and
attributes.
"""

from __future__ import annotations

import array
import functools
import hashlib
import math
import random
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from lloydmax.runtime import code

_PLAIN = (int, float, complex, bool, str, bytes, type(None), type(...), torch.dtype, torch.device, torch.layout)
_PLAIN_TYPES = frozenset((int, float, bool, str, bytes, type(None)))
_OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes in which torch keeps what every module has: its mode, hooks, and the tensors that are told anyway."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_REPR = ("datetime", "decimal", "fractions", "re", "uuid", "zoneinfo")
"""Modules of Python whose objects are what their ``repr`` says."""
_OF_THE_PROCESS = frozenset(
    ("_thread", "concurrent", "io", "_io", "logging", "multiprocessing", "socket", "threading", "weakref")
)
"""Modules of Python whose objects belong to a process: nothing that is computed depends on them."""
_COLLECTIONS = (set, frozenset, dict, MappingProxyType, list, tuple, deque)
_DEPTH = 60
"""Objects within each other that are looked into."""
_MANY, _SPREAD = 1 << 17, 1 << 12
"""Items from which a list is known by some of them, and by how many then."""
_BATCH = 1 << 8
"""Items from which plain ones are told together."""
_PIECES, _PIECE = 256, 1 << 12
"""Pieces of a large tensor, and their bytes."""


class Description:
    """Digests of several things that may share parts, each looked into once.

    Args:
        room: bytes of tensors and arrays that are read in full, all together; of each one beyond that 256 pieces of 4
            KiB, its length and, where it is mapped from a file, that file's time count. ``None``: no limit.
        modules: name of each module that stands for itself, by identity.
        tensors: the same.
        files: whether a text or path that names a file stands for its size and time, too.
        settings: whether numbers, texts and the like count; else only tensors, arrays, code and files do.
    """

    def __init__(
        self,
        room: int | None = None,
        modules: Mapping[int, str] | None = None,
        tensors: Mapping[int, str] | None = None,
        *,
        files: bool = False,
        settings: bool = True,
    ) -> None:
        self._room = math.inf if room is None else room
        self._named = {**(modules or {}), **(tensors or {})}
        self._files, self._settings = files, settings
        self._known: dict[int, tuple[Any, bytes]] = {}
        self._path: dict[int, int] = {}

    def of(self, value: Any) -> bytes:
        """The digest of a value, 16 bytes."""
        if isinstance(value, _PLAIN) and not isinstance(value, Enum):
            return self._plain(value)
        if (name := self._named.get(id(value))) is not None:
            return _digest("named", name.encode())
        if (known := self._known.get(id(value))) is not None:
            return known[1]
        if id(value) in self._path or len(self._path) >= _DEPTH:
            return _digest("within", str(self._path.get(id(value), "deep")).encode())
        self._path[id(value)] = len(self._path)
        try:
            found = self._complex(value)
        finally:
            del self._path[id(value)]
        self._known[id(value)] = value, found  # the value, too: its identity is not given to another one then
        return found

    def module(self, module: nn.Module) -> bytes:
        """A module without those inside of it: class, tensors, attributes, hooks."""
        own = {key: value for key, value in vars(module).items() if key not in _OF_MODULES}
        held = {**module._parameters, **module._buffers}
        late = sorted(getattr(module, "_non_persistent_buffers_set", ()))
        keyword = (
            vars(module).get("_forward_hooks_with_kwargs", {}),
            vars(module).get("_forward_pre_hooks_with_kwargs", {}),
        )
        hooks = [
            [(hook, number in keyword[0], number in keyword[1]) for number, hook in vars(module).get(name, {}).items()]
            for name in _HOOKS
        ]
        parts = (self._class(type(module)), self.of(held), self.of(own), self.of(late), self.of(hooks))
        return _digest("module", *parts)

    def _plain(self, value: Any) -> bytes:
        told = type(value).__name__, repr(value)
        if self._files and isinstance(value, str) and (about := _stat(value)):
            return _digest("file", about.encode(), told[1].encode() if self._settings else b"")
        return _digest("plain", *(part.encode("utf-8", "surrogatepass") for part in told)) if self._settings else b""

    def _complex(self, value: Any) -> bytes:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(np.asanyarray(value))
        if isinstance(value, (array.array, memoryview)):
            held, kind = value.tobytes(), getattr(value, "typecode", None) or getattr(value, "format", None)
            values = np.frombuffer(held, np.uint8) if held else None
            return _digest("buffer", f"{kind} {getattr(value, 'shape', None)}".encode(), self._values(values))
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return _digest("method", self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, CodeType):
            return Description().of(code.told(value))
        if isinstance(value, torch.fx.Graph):
            return self.of(str(value))
        if isinstance(value, (range, slice, bytearray)):
            return self._plain(value)
        if isinstance(value, nn.Module):
            return _digest("whole", self.module(value), self.of(dict(value.named_children())))
        if isinstance(value, (functools.partial, functools.partialmethod)):
            return _digest("partial", *map(self.of, (value.func, value.args, value.keywords)))
        if isinstance(value, ModuleType):
            return self.of(f"module {value.__name__}")
        if isinstance(value, CellType):
            return self.of(_content(value))
        return self._object(value)

    def _object(self, value: Any) -> bytes:
        parts = [self._class(type(value))]
        if isinstance(value, (set, frozenset)):
            parts += sorted(map(self.of, value))
        elif isinstance(value, (dict, MappingProxyType)):
            parts += self._items([*value.items()])
        elif isinstance(value, (list, tuple, deque)):
            parts += self._items(value)
        if isinstance(value, torch.Generator):
            parts.append(self.of(value.get_state()))
        elif isinstance(value, np.random.Generator):
            parts.append(self.of(value.bit_generator.state))
        elif isinstance(value, np.random.BitGenerator):
            parts.append(self.of(value.state))
        elif isinstance(value, np.random.RandomState):
            parts.append(self.of(value.get_state(legacy=False)))
        elif isinstance(value, random.Random):
            parts.append(self.of(value.getstate()))
        elif isinstance(value, Enum):
            parts.append(self.of(value.name))
        elif isinstance(value, PurePath):
            parts.append(self.of(str(value)))
        elif callable(value) and isinstance(getattr(value, "__qualname__", None), str):
            parts.append(self.of(f"{getattr(value, '__module__', None)}.{value.__qualname__}"))
            if isinstance(value, BuiltinFunctionType) and not isinstance(value.__self__, (ModuleType, type(None))):
                parts.append(self.of(value.__self__))
        elif callable(value) and isinstance(getattr(value, "__name__", None), str):
            parts.append(self.of(str(value.__name__)))
        elif type(value).__module__ in _REPR:
            parts.append(self.of(repr(value)))
        if type(value).__module__.partition(".")[0] in _OF_THE_PROCESS:
            return _digest("object", *parts, b"")
        own = dict(_attributes(value))
        if not own and len(parts) == 1 and not isinstance(value, _COLLECTIONS):
            parts.append(self.of(_reduced(value)))
        return _digest("object", *parts, self.of(own) if own else b"")

    def _items(self, items: Any) -> Iterator[bytes]:
        """Of a sequence; of a very long one its length, and items spread over it, unless all are numbers or texts."""
        kinds = set(map(type, items)) if len(items) > _BATCH else {object}
        if kinds <= _PLAIN_TYPES and not (self._files and str in kinds):
            yield _digest("items", repr(items).encode("utf-8", "surrogatepass")) if self._settings else b""
            return
        if len(items) > _MANY:
            yield self.of(len(items))
            items = [items[len(items) * n // _SPREAD] for n in range(_SPREAD)] + [items[-1]]
        for item in items:
            yield self.of(item)

    def _function(self, function: FunctionType) -> bytes:
        name = function.__qualname__
        if (library := code.of_library(function)) is not None and function.__closure__ is None:
            return _digest("library", f"{library} {function.__globals__.get('__name__')}.{name}".encode())
        cells = [_content(cell) for cell in function.__closure__ or ()]
        parts = [*map(self.of, (function.__defaults__, function.__kwdefaults__, cells, vars(function)))]
        if library is None:
            parts += [self.of(function.__code__), self.of(self._globals(function))]
        return _digest("function", f"{library} {name.rpartition('.')[2]}".encode(), *parts)

    def _globals(self, function: FunctionType) -> dict[str, Any]:
        """What a function reads of its module, and of other modules of the user."""
        asks = code.names(function.__code__)
        found = {name: function.__globals__[name] for name in asks.read if name in function.__globals__}
        modules = [value for value in found.values() if isinstance(value, ModuleType)]
        for name in code.imports(function.__code__, function.__globals__.get("__package__")):
            if (loaded := sys.modules.get(name)) is None:
                found[f"{name} as written"] = self._written(name)
            else:
                modules.append(loaded)
        seen: set[int] = set()
        while modules:
            module = modules.pop()
            if id(module) in seen or code.library(module.__name__) is not None:
                continue
            seen.add(id(module))
            held = {f"{module.__name__}.{asked}": vars(module)[asked] for asked in asks.asked if asked in vars(module)}
            found |= held
            modules += [value for value in held.values() if isinstance(value, ModuleType)]
        return found

    def _written(self, module: str) -> list[Any]:
        """The code of a module of the user that is not loaded, and of those that it imports."""
        found: dict[str, Any] = {}
        waiting = [module]
        while waiting:
            if (name := waiting.pop()) in found:
                continue
            source = found[name] = code.written(name)
            if source is not None:
                waiting += code.imports(source, name if _is_package(source) else name.rpartition(".")[0])
        return sorted(found.items(), key=lambda item: item[0])

    def _class(self, cls: type) -> bytes:
        if (known := self._known.get(id(cls))) is not None:
            return known[1]
        library = code.library(cls.__module__)
        name = cls.__qualname__ if library is None else f"{library} {cls.__module__}.{cls.__qualname__}"
        self._known[id(cls)] = cls, _digest("class", name.encode())  # for what its own code says of it
        parts = [part for name, value in code.members(cls) for part in (name.encode(), self._member(value))]
        found = _digest("class", name.encode(), *parts, *(self._class(base) for base in _above(cls)))
        self._known[id(cls)] = cls, found
        return found

    def _member(self, value: Any) -> bytes:
        return b"" if isinstance(value, (GetSetDescriptorType, MemberDescriptorType)) else self.of(value)

    def _tensor(self, tensor: Tensor) -> bytes:
        tensor = tensor.detach()
        what = type(tensor).__name__, tensor.dtype, tuple(tensor.shape), tensor.layout, tensor.device.type
        about = " ".join(map(str, what)).encode()
        if tensor.is_meta or tensor.is_nested:
            return _digest("tensor", about)
        if tensor.layout == torch.sparse_coo:
            tensor = tensor.coalesce()
            return _digest("tensor", about, self._tensor(tensor.indices()), self._tensor(tensor.values()))
        if tensor.is_quantized:
            return _digest("tensor", about, self._tensor(tensor.int_repr()), self._tensor(tensor.dequantize()))
        if tensor.layout != torch.strided:
            return _digest("tensor", about, self._tensor(tensor.to_dense()))
        plain = tensor.cpu().resolve_conj().resolve_neg()
        strides = str(plain.stride()).encode()  # kernels sum in another order
        values = plain.contiguous().reshape(-1)
        return _digest(
            "tensor", about, strides, self._values(values.view(torch.uint8).numpy() if len(values) else None)
        )

    def _array(self, array: Any) -> bytes:
        if array.dtype.hasobject:
            return _digest("array", str(array.shape).encode(), self.of(array.tolist()))
        about = f"{array.dtype} {array.shape}".encode()
        if array.nbytes > self._room and isinstance(array, np.memmap):
            rows = array.reshape(-1)
            file = _stat(str(array.filename)) or ""
            return _digest("array", about, file.encode(), _pieces(rows, max(1, _PIECE // array.itemsize)).tobytes())
        flat = np.ascontiguousarray(array).reshape(-1)
        return _digest("array", about, self._values(flat.view(np.uint8) if array.size else None))

    def _values(self, values: Any) -> bytes:
        """Of bytes in one axis; of many only pieces of them."""
        if values is None:
            return b""
        if len(values) > self._room:
            values = _pieces(values, _PIECE)
        self._room -= len(values)
        return hashlib.sha256(values.data).digest()


def _above(cls: type) -> list[type]:
    """What a class has its other members from."""
    return [*cls.__mro__[1:-1], *([] if type(cls) is type else [type(cls)])]


def _is_package(source: CodeType) -> bool:
    return Path(source.co_filename).stem == "__init__"


def _reduced(value: Any) -> Any:
    """What an object would be copied from; ``None``: it belongs to this process."""
    try:
        made = value.__reduce_ex__(4)
        return made if isinstance(made, str) else [list(one) if isinstance(one, Iterator) else one for one in made]
    except Exception:
        return None


def _pieces(values: Any, items: int) -> Any:
    """Evenly spread pieces of an array of one axis, with so many items each; that of the end is one of them."""
    last = max(0, len(values) - items)
    return np.concatenate([values[last * n // (_PIECES - 1) :][:items] for n in range(_PIECES)])


def _digest(kind: str, *parts: bytes) -> bytes:
    digest = hashlib.sha256(kind.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()[:16]


def _stat(path: str) -> str | None:
    """Size and time of an ordinary file; ``None``: there is none."""
    try:
        about = Path(path).stat()
    except (OSError, ValueError):
        return None
    return f"{about.st_size} {about.st_mtime_ns}" if stat.S_ISREG(about.st_mode) else None


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "empty cell"


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an object has itself, also in slots."""
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict):
        yield from held.items()
    for base in type(value).__mro__:
        slots: Any = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            mangled = (
                f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
            )
            get: Callable[..., Any] | None = getattr(vars(base).get(mangled), "__get__", None)
            if get is not None and name not in ("__dict__", "__weakref__"):
                try:
                    yield name, get(value)
                except AttributeError:
                    continue
