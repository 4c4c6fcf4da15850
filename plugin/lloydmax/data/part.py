"""Some of the samples of a source, as a source of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.data.batch import DECODER_REAL, REAL, Batch
from lloydmax.data.left_out import LeftOut
from lloydmax.data.sources import Source
from lloydmax.errors import DataError, LloydmaxError
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.runtime.seeding import seeded

_ASKED = 16
"""Samples by which it is told whether a model takes sequences of other lengths."""


class Part(Source):
    """Samples of another source, numbered anew; what is left out is left out there, and told by its numbers.

    Args:
        whole: the other source.
        rows: int64, the samples, without repeats.
        what: they are, for :meth:`describe`, such as ``"held out"``.
    """

    def __init__(self, whole: Source, rows: Tensor, what: str) -> None:
        self.whole, self.rows, self._what, self.made = whole, rows, what, whole.made
        self._place = torch.full((len(whole),), -1, dtype=torch.int64)
        self._place[rows] = torch.arange(len(rows))
        if hasattr(whole, "came_in"):
            self.came_in = whole.came_in

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def deterministic(self) -> bool:
        """That of the other source."""
        return self.whole.deterministic

    @property
    def varies(self) -> bool:  # type: ignore[override]
        """That of the other source."""
        return self.whole.varies

    @property
    def left_out(self) -> LeftOut:
        """That of the other source."""
        return self.whole.left_out

    def describe(self) -> str:
        """One line for people."""
        return f"{len(self):,} of {self.whole.describe()}, {self._what}"

    def read_labels(self) -> Any:
        """Those of these samples."""
        labels = self.whole.read_labels()
        return None if labels is None else torch.as_tensor(labels)[self.rows]

    def leave_out(self, found: Mapping[int, str], read: int) -> None:
        """See :meth:`Source.leave_out`."""
        self.whole.leave_out({int(self.rows[index]): why for index, why in found.items()}, read)

    def tell(self) -> None:
        """See :meth:`Source.tell`."""
        self.whole.tell()

    def contents(self) -> bytes:
        """See :meth:`Source.contents`."""
        return self._described(self.whole.contents(), self.rows.tolist())

    def batches(
        self, batch_size: int, order: Tensor | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Batch]]:
        """See :meth:`Source.batches`."""
        order = torch.arange(len(self)) if order is None else order.detach().cpu()
        if order.ndim != 1 or order.dtype != torch.int64 or (len(order) and not int(order.min()) >= 0):
            raise DataError(
                f"order must be 1-D, int64 and not negative, not {order.dtype} of shape {tuple(order.shape)}"
            )
        if len(order) and int(order.max()) >= len(self):
            raise DataError(f"order is of samples {order.min()} to {order.max()}, not 0 to {len(self) - 1}")
        for indices, batch in self.whole.batches(batch_size, self.rows[order], drop_last):
            yield self._place[indices], batch

    def _first(self, samples: int) -> Batch:
        for rows in self.rows.split(samples):
            for _, batch in self.whole._usable(self.whole._look(rows), rows, some=False):
                self.tell()
                return batch
        raise DataError(f"none of the samples can be used ({self.describe()}): {self.left_out.names()}")

    def _look(self, order: Tensor) -> Iterator[tuple[Tensor, Batch]]:
        for indices, batch in self.whole._look(self.rows[order]):
            yield self._place[indices], batch

    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        for indices, batch in self.whole._read(self.rows[order], batch_size, drop_last):
            yield self._place[indices], batch


class Even(Part):
    """The samples of another source in batches without padding, of sequences of one length each: whatever looks inside
    a model then sees nothing but what is real.

    Args:
        whole: the other source.
    """

    def __init__(self, whole: Source) -> None:
        super().__init__(whole, torch.arange(len(whole)), "without padding")

    def batches(
        self, batch_size: int, order: Tensor | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Batch]]:
        """See :meth:`Source.batches`; a batch with sequences of several lengths comes in parts."""
        for indices, batch in super().batches(batch_size, order, drop_last):
            for rows, part in batch.even():
                yield indices[rows], part


def even(source: Source, model: nn.Module) -> Source:
    """The source without padding; itself where the model takes sequences of one length only.

    Args:
        source: unlabelled inputs.
        model: run on a few of them, in evaluation mode, left as it was.
    """
    batch = source.first(min(_ASKED, len(source)))
    if not {REAL, DECODER_REAL} & batch.beside.keys():
        return source
    try:
        with seeded(0, model), evaluating(model):
            for _, part in batch.even():
                part.to(device_of(model)).run(model)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, LloydmaxError):
        return source
    return Even(source)
