"""What runs over the same model and data share: the trials of a tuning loop, for example."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from lloydmax.errors import RecipeError

T = TypeVar("T")
GIB = 1 << 30


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

    Args:
        limit: bytes that all kept results may take; a single larger one is not kept.
    """

    def __init__(self, limit: int = GIB) -> None:
        self.limit = limit
        self.bytes = self.hits = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """The result under ``key``, made if it is not there; ``size`` tells its bytes."""
        kept: T | None = self.find(key)
        if kept is not None:
            return kept
        made = make()
        self.put(key, made, size(made))
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
        """Keep a result of ``size`` bytes."""
        if size > self.limit:
            return
        with self._lock:
            self.bytes += size - self._kept.pop(key, (None, 0))[1]
            self._kept[key] = (value, size)
            while self.bytes > self.limit:
                _, (_, dropped) = self._kept.popitem(last=False)
                self.bytes -= dropped

    def __deepcopy__(self, memo: dict[int, Any]) -> Cache:
        return self
