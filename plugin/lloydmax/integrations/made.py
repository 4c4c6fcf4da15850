"""Classes that are made for compressed models: an architecture's class with what a host calls on top.

A model keeps its architecture's name, and its copies and pickles keep what is on top.
"""

from __future__ import annotations

import functools
from typing import Any


class OnTop:
    """What stands on top of an architecture's class in a class that :func:`made` makes."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Do nothing: an architecture that keeps account of its subclasses does not see those that are made."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """For copies and pickles: classes that were made cannot be found by their names."""
        reduced: Any = super().__reduce_ex__(protocol)
        _, _, *rest = reduced
        return _without_values, (architecture(type(self)), _tops(type(self))), *rest


def made(kind: type, *tops: type) -> type:
    """The class of ``kind`` with further classes on top, the first uppermost; the same one each time.

    Args:
        kind: an architecture's class, or one that was made.
        tops: subclasses of :class:`OnTop`; those that are there already are not added.
    """
    held = _tops(kind)
    return _made(architecture(kind), tuple(top for top in tops if top not in held) + held)


def architecture(kind: type) -> type:
    """The class of a model, without what :func:`made` put on top."""
    return kind.__bases__[-1] if _is_made(kind) else kind


def without(kind: type, top: type) -> type:
    """The class of a model without one of the classes on top."""
    return _made(architecture(kind), tuple(held for held in _tops(kind) if held is not top))


def _tops(kind: type) -> tuple[type, ...]:
    return kind.__bases__[:-1] if _is_made(kind) else ()


def _is_made(kind: type) -> bool:
    return "_lloydmax_made" in vars(kind)


@functools.cache
def _made(kind: Any, tops: tuple[type, ...]) -> type:
    if not tops:
        found: type = kind
        return found
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    found = type(kind)(kind.__name__, (*tops, kind), {**names, "_lloydmax_made": True})
    return found


def _without_values(kind: type, tops: tuple[type, ...]) -> Any:
    found: Any = _made(kind, tops)
    return found.__new__(found)
