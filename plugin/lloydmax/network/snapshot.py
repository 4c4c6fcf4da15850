"""What a model is, to be put back where a change of it ends before it is whole."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class Snapshot:
    """A model as it was: its modules and what they hold, and its tensors.

    It takes little memory: of the tensors it keeps the places, and copies of the values only of those that
    :meth:`keep_values` is told.

    Args:
        model: may be wrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, type(module), dict(vars(module))) for module in model.modules()]
        self._held = [
            (value, value.copy() if value else ())
            for *_, held in self._modules
            for value in held.values()
            if _is_container(value)
        ]
        tensors = {id(t): t for *_, held in self._modules for t in _tensors(held) if _is_plain(t)}
        self._tensors = {key: (t, t.detach(), t.requires_grad) for key, t in tensors.items()}
        self._values: list[tuple[Tensor, Tensor]] = []
        self._extra: list[tuple[nn.Module, Any]] = []

    def keep_values(self, tensors: Iterable[Tensor]) -> None:
        """Copy the values of those of these tensors that the model had, before they are overwritten."""
        for tensor in tensors:
            known = self._tensors.get(id(tensor))
            if known is not None and not tensor.is_meta and 0 not in tensor.stride():  # those get memory of their own
                self._values.append((known[1], known[1].clone()))

    def keep_extra_states(self) -> None:
        """Copy the extra state of the modules, before it is set."""
        for module, kind, _ in self._modules:
            if kind.set_extra_state is not nn.Module.set_extra_state:
                with suppress(Exception):  # a module that has none to give
                    self._extra.append((module, copy.deepcopy(module.get_extra_state())))

    def restore(self) -> None:
        """Put everything back, also where it is interrupted itself."""
        while True:
            try:
                self._restore()
                return
            except KeyboardInterrupt:
                continue

    @torch.no_grad()
    def _restore(self) -> None:
        for module, kind, _ in self._modules:
            if type(module) is not kind:
                module.__class__ = kind
        for module, state in self._extra:  # first: it may leave attributes that were not there
            with suppress(Exception):
                module.set_extra_state(state)
        for module, _, held in self._modules:
            if not _same(vars(module), held):
                vars(module).clear()
                vars(module).update(held)
        for container, items in self._held:
            if isinstance(container, list):
                container[:] = items
            elif not isinstance(container, dict) or not _same(container, items):
                container.clear()
                container.update(items)
        for tensor, place, gradients in self._tensors.values():
            if not place.is_meta and not tensor.is_set_to(place):
                tensor.data = place
            if tensor.requires_grad != gradients:
                tensor.requires_grad_(gradients)
        for place, values in self._values:
            place.copy_(values)


def _is_container(value: Any) -> bool:
    return isinstance(value, (dict, list, set))


def _tensors(held: dict[str, Any]) -> Iterable[Tensor]:
    """What a module holds of its own."""
    for value in (*held.get("_parameters", {}).values(), *held.get("_buffers", {}).values(), *held.values()):
        if isinstance(value, Tensor):
            yield value


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has a place in memory that something else may be put into."""
    return not is_lazy(tensor) and tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested


def _same(now: dict[Any, Any], before: Any) -> bool:
    """The same keys in the same order, and the very same values."""
    return len(now) == len(before) and all(
        key == other and now[key] is before[other] for key, other in zip(now, before, strict=True)
    )
