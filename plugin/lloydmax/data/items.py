"""The items of a dataset on their way into a batch: those that cannot be read or do not fit are set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lloydmax.data.batch import leaves
from lloydmax.data.faults import kind_of
from lloydmax.data.inputs import Inputs, Listed, is_label
from lloydmax.data.left_out import MISFIT
from lloydmax.errors import DataError
from lloydmax.runtime.text import printable

Layout = tuple[tuple[str, tuple[int, ...]], ...]
"""Kind of numbers and shape of every tensor or array in an item."""


@dataclass(frozen=True)
class Unreadable:
    """Stands for an item that could not be read."""

    reason: str


class Reading(Dataset[Any]):
    """A dataset that gives :class:`Unreadable` where the one inside fails or gives ``None``.

    Everything else is asked of the one inside, and set on it, as a ``worker_init_fn`` may do.
    """

    def __init__(self, dataset: Any) -> None:
        self.__dict__["_dataset"] = dataset

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_dataset"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return Reading, (self._dataset,)

    def __getitem__(self, key: Any) -> Any:
        try:
            item = self._dataset[key]
        except Exception as error:
            return Unreadable(_told(error))
        return Unreadable("the dataset gave None") if item is None else item

    def __getitems__(self, keys: list[Any]) -> list[Any]:
        """All at once, where the dataset can do that and nothing fails."""
        together = getattr(self._dataset, "__getitems__", None)
        if together is not None:
            try:
                items = list(together(keys))
            except Exception:
                items = []
            if len(items) == len(keys) and all(item is not None for item in items):
                return items
        return [self[key] for key in keys]


class Collating:
    """Makes a batch of the items that can be part of it.

    Args:
        collate_fn: the user's; ``None``: torch's, which takes items of one layout only.
        inputs: of the model.
        layout: of every item, where the collation is torch's; ``None``: not known yet.
    """

    def __init__(self, collate_fn: Callable[[Any], Any] | None, inputs: Inputs, layout: Layout | None = None) -> None:
        self.plain = collate_fn is None or collate_fn is default_collate
        self.collate = default_collate if collate_fn is None else collate_fn
        self.layout, self._leading, self._names = layout, inputs.positional, inputs.taken
        self._inputs = inputs

    def suiting(self, items: Iterable[Any]) -> Collating:
        """The one that suits some of the items: where they are sequences, torch's would not pad them."""
        if not self.plain or not any(map(self._inputs.sequences.has, items)):
            return self
        return Collating(self._inputs.sequences, self._inputs)

    def __call__(self, items: Sequence[Any]) -> tuple[dict[int, str], Any]:
        """The positions of items that are left out, with reasons, and the batch of the others (``None``: none is left).

        Raises:
            DataError: the items cannot be one batch, and none of them is to blame alone.
        """
        failed = {at: item.reason for at, item in enumerate(items) if isinstance(item, Unreadable)}
        good = {at: item for at, item in enumerate(items) if at not in failed}
        if self.plain:
            good = {at: self.needed(item) for at, item in good.items()}
            failed |= {at: why for at, item in good.items() if (why := self._misfit(item))}
        good = {at: item for at, item in good.items() if at not in failed}
        if not good:
            return failed, None
        batch, reason = self._collated(list(good.values()))
        if batch is None or rows_of(batch) not in (None, len(good)):
            alone = {at: self._collated([item]) for at, item in good.items()}
            made = batch is not None
            dropped = {
                at: "collate_fn dropped it" if made or not why else why
                for at, (one, why) in alone.items()
                if _is_empty(one)
            }
            if dropped:
                failed |= dropped
                good = {at: item for at, item in good.items() if at not in dropped}
                batch, reason = self._collated(list(good.values())) if good else (None, "")
        if batch is None and good:
            raise DataError(reason)
        return failed, batch

    def _collated(self, items: list[Any]) -> tuple[Any, str]:
        try:
            batch = self.collate(items)
        except Exception as error:
            return None, _told(error)
        same = isinstance(batch, (list, tuple)) and [*map(id, batch)] == [*map(id, items)]
        return (Listed(batch) if same else batch), ""

    def needed(self, item: Any) -> Any:
        """What the model needs of a mapping, with tensors for lists of numbers, as Hugging Face's ``datasets`` have."""
        if not isinstance(item, Mapping):
            return item
        known = [key for key in item if key in self._names] or [key for key in item if not is_label(key)]
        return {key: torch.tensor(item[key]) if _is_numbers(item[key]) else item[key] for key in known}

    def usual_layout(self, items: Iterable[Any]) -> Layout | None:
        """The layout that most of some items have, the earliest of several; ``None`` where there are none."""
        layouts = [self._layout(self.needed(item)) for item in items if not isinstance(item, Unreadable)]
        return Counter(layouts).most_common(1)[0][0] if layouts else None

    def _misfit(self, item: Any) -> str:
        found = self._layout(item)
        if self.layout is None or found == self.layout:
            return ""
        return f"{_in_words(found)}{MISFIT}{_in_words(self.layout)}"

    def _layout(self, item: Any) -> Layout:
        if isinstance(item, (tuple, list)) and item:
            item = item[0] if isinstance(item[0], (tuple, list, Mapping)) else item[: self._leading]
        return tuple(
            (kind_of(leaf), tuple(leaf.shape)) for leaf in leaves(item) if isinstance(leaf, (Tensor, np.ndarray))
        )


def rows_of(batch: Any) -> int | None:
    """The first axis of the first tensor or array that has one; ``None``: there is none."""
    if hasattr(batch, "whole"):
        return None
    arrays = (leaf for leaf in leaves(batch) if isinstance(leaf, (Tensor, np.ndarray)) and leaf.ndim)
    return next((len(array) for array in arrays), None)


def _is_empty(batch: Any) -> bool:
    return batch is None or rows_of(batch) == 0


def _is_numbers(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(x, (bool, int, float)) for x in value) or (
        all(map(_is_numbers, value)) and len({len(x) for x in value}) == 1
    )


def _in_words(layout: Layout) -> str:
    return " and ".join(f"{kind} {'x'.join(map(str, shape)) or 'alone'}" for kind, shape in layout) or "without tensors"


def _told(error: Exception) -> str:
    text = str(error).strip()
    return text if isinstance(error, DataError) else printable(f"{type(error).__name__}: {text}", 500)
