"""What runs over the same model and data share: the trials of a tuning loop, for example."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from lloydmax.errors import RecipeError
from lloydmax.runtime.arguments import number as number_of

T = TypeVar("T")
GIB = 1 << 30
_CODE = (type, FunctionType, BuiltinFunctionType, ModuleType)
_numbers = WeakIdKeyDictionary()
_next, _numbering = itertools.count(), threading.Lock()


def checked_cache(cache: Any) -> Cache | None:
    """What is given as ``cache``.

    Raises:
        RecipeError: neither a cache nor ``None``.
    """
    if cache is None or isinstance(cache, Cache):
        return cache
    raise RecipeError(
        f"cache is a lloydmax.Cache or None, not of type {type(cache).__name__}: give cache=lloydmax.Cache()"
    )


class Cache:
    """Results by key; the least recently used ones are dropped beyond ``limit`` bytes. Threads may share one.

    What counts is all that an entry keeps alive, see :func:`bytes_of`: codebooks, the teacher's outputs in memory and
    in temporary files, and the data, the caller's own tensors among them. A run that uses an entry which is dropped
    goes on with it; temporary files are removed when the last one has let go of them. A pickle, for another process, is
    empty and has the same limit.

    Args:
        limit: bytes that all kept results may take; a single larger one is not kept; 0: nothing is kept.

    Attributes:
        bytes: of all kept results.
        hits: results that were found.

    Raises:
        RecipeError: the limit is not a number of 0 or more.
    """

    def __init__(self, limit: int = GIB) -> None:
        self.limit = int(number_of("limit of a lloydmax.Cache", limit, RecipeError))
        self.bytes = self.hits = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int] | None = None) -> T:
        """The result under ``key``, made if it is not there; ``size`` tells its bytes, absent :func:`bytes_of`."""
        kept: T | None = self.find(key)
        if kept is not None:
            return kept
        made = make()
        self.put(key, made, bytes_of((key, made)) if size is None else size(made))
        return made

    def find(self, key: Hashable) -> Any:
        """The result under ``key``, or ``None``."""
        with self._lock:
            if key not in self._kept:
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a result of ``size`` bytes, in place of an earlier one; not where it is larger than the limit."""
        dropped = []  # let go of once the lock is free: files may have to be removed
        with self._lock:
            if key in self._kept:
                dropped.append(self._dropped(key))
            if size <= self.limit:
                self.bytes += size
                self._kept[key] = (value, size)
            while self.bytes > self.limit:
                dropped.append(self._dropped(next(iter(self._kept))))

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            dropped, self._kept, self.bytes = self._kept, OrderedDict(), 0
        dropped.clear()

    def _dropped(self, key: Hashable) -> Any:
        value, size = self._kept.pop(key)
        self.bytes -= size
        return value

    def __deepcopy__(self, memo: dict[int, Any]) -> Cache:
        return self

    def __reduce__(self) -> tuple[type[Cache], tuple[int]]:
        """An empty one of the same limit: keys are about objects of one process."""
        return Cache, (self.limit,)


def number(thing: object) -> int:
    """A number that no other object has, before or after it, as it can be with ``id``; it keeps nothing alive."""
    with _numbering:
        if thing not in _numbers:
            _numbers[thing] = next(_next)
        found: int = _numbers[thing]
        return found


def bytes_of(value: object) -> int:
    """Bytes that a value keeps: its tensors and arrays, on any device or in temporary files, each memory once, and the
    objects that hold them. Files that arrays are mapped from by numpy count nothing; neither do functions and classes.
    """
    total, waiting = 0, [value]
    seen: set[int] = set()
    places: set[tuple[str, int]] = set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, _CODE):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one, 0) if not isinstance(one, (np.ndarray, Tensor)) else 0
        for place, size in _memory(one):
            total += 0 if place in places else size
            places.add(place)
        waiting += _parts(one)
    return total


def _memory(one: object) -> Iterator[tuple[tuple[str, int], int]]:
    """Where the values of a tensor or array lie, and their bytes."""
    if isinstance(one, np.ndarray):
        while isinstance(one, np.ndarray) and isinstance(one.base, np.ndarray):
            one = one.base
        if not isinstance(one, np.memmap):
            yield ("cpu", one.__array_interface__["data"][0]), one.nbytes
    elif isinstance(one, Tensor):
        try:
            held = one.untyped_storage()
            yield (str(one.device), held.data_ptr()), held.nbytes()
        except (RuntimeError, NotImplementedError):  # sparse ones, and kinds of other packages
            yield (str(one.device), id(one)), one.element_size() * one.numel()


def _parts(one: object) -> Iterator[Any]:
    """What an object holds."""
    if isinstance(one, Mapping):
        yield from one.keys()
        yield from one.values()
    elif isinstance(one, (list, tuple, set, frozenset, deque)):
        yield from one
    elif isinstance(one, MethodType):
        yield one.__self__
    elif isinstance(one, partial):
        yield from (one.func, one.args, one.keywords)
    elif isinstance(one, np.ndarray) and one.dtype.hasobject:
        yield from one.flat
    if not isinstance(one, Tensor):
        yield from getattr(one, "__dict__", {}).values()
        slots = (name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ()))
        yield from (getattr(one, name) for name in slots if hasattr(one, name) and name != "__weakref__")
