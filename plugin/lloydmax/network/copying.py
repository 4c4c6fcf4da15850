"""Deep copies of trees of modules, without the detour through pickling that ``copy.deepcopy`` takes for every one."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from typing import Any

from torch import nn

_SAME = frozenset({type(None), bool, int, float, complex, str, bytes, type})
"""Types of values that are their own copies."""
_HOW = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__", "__reduce__", "__reduce_ex__", "__new__")
"""By what a class says how it is copied."""


def deep_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> Any:
    """What ``copy.deepcopy`` gives for a module; it is asked for all that is not a plain module or container.

    Args:
        model: not changed.
        memo: as for ``copy.deepcopy``: what stands for an object, by its identity; filled.
    """
    return _module(model, {} if memo is None else memo)


def _module(module: nn.Module, memo: dict[int, Any]) -> Any:
    known = memo.get(id(module))
    if known is not None:
        return known
    kind = type(module)
    state = module.__getstate__() if _is_plain(kind) and "__deepcopy__" not in vars(module) else None
    if type(state) is not dict:
        if not hasattr(module, "__deepcopy__"):  # what is inside of it is plain for the most part
            for child in module.children():
                _module(child, memo)
        return copy.deepcopy(module, memo)
    memo.setdefault(id(memo), []).append(state)  # alive as long as identities in the memo are those of its values
    made = memo[id(module)] = kind.__new__(kind)
    made.__setstate__({name: one if type(one) in _SAME else _value(one, memo) for name, one in state.items()})
    return made


def _value(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _SAME or (kind is tuple and all(type(one) in _SAME for one in value)):
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if kind is dict or (kind is OrderedDict and not vars(value)):
        made = memo[id(value)] = kind()
        for key, one in value.items():
            made[key if type(key) in _SAME else copy.deepcopy(key, memo)] = _value(one, memo)
        return made
    if isinstance(value, nn.Module):
        return _module(value, memo)
    return copy.deepcopy(value, memo)


def _is_plain(kind: type) -> bool:
    """Whether modules of a class are copied attribute by attribute."""
    return (
        kind.__getattr__ is nn.Module.__getattr__  # type: ignore[attr-defined]
        and not any(name in vars(base) for base in kind.__mro__[:-1] for name in _HOW)
        and kind not in copyreg.dispatch_table
    )
