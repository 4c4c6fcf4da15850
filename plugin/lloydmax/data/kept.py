"""Batches that can be read only once, kept for random access: in memory, then in memory-mapped files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor

from lloydmax.data.batch import Batch, leaves
from lloydmax.data.faults import kinds
from lloydmax.data.inputs import SPARSE
from lloydmax.data.left_out import MISFIT
from lloydmax.data.padding import Padding
from lloydmax.data.sources import DIGESTED, Source, chunks, shapes
from lloydmax.errors import DataError, OutputError
from lloydmax.runtime.description import Description
from lloydmax.runtime.mapped import Mapped

GIB = 2**30
SEGMENT_BYTES = GIB // 4
"""Memory is taken in pieces of this size, so that no piece has to move when more batches come."""
MOST_BATCHES = 2**20
"""That are kept: each takes about a kilobyte, whatever is in it."""
_ALIGNMENT = 64
"""Bytes: a cache line."""


class Spool:
    """Keeps copies of tensors: the first ``memory_limit`` bytes in memory, the rest in files that are mapped.

    The files lie in a temporary folder inside ``workdir`` (default: the system's), which is removed with this
    object or at exit.
    """

    def __init__(self, workdir: str | os.PathLike[str] | None, memory_limit: int, total_limit: int) -> None:
        self._files = Mapped(workdir, "data")
        self._memory_limit = memory_limit
        self._total_limit = total_limit
        self._segment = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self.bytes = 0
        self.bytes_on_disk = 0

    def keep(self, tensor: Tensor) -> Tensor:
        """A copy of ``tensor`` on the CPU.

        Raises:
            DataError: the copy would pass the total limit, there is no space, or the tensor is sparse.
        """
        if tensor.layout != torch.strided:
            raise DataError(SPARSE)
        tensor = tensor.detach().cpu().contiguous()
        self.bytes += tensor.nbytes
        if self.bytes > self._total_limit:
            raise DataError(
                f"the data can be read only once and is larger than {self._total_limit / GIB:,.1f} GiB: "
                "pass a Dataset (or a DataLoader over one), which is read as needed"
            )
        if self.bytes <= self._memory_limit or not tensor.nbytes:
            return tensor.clone()
        if self._used + tensor.nbytes > len(self._segment):
            self._new_segment(max(SEGMENT_BYTES, tensor.nbytes))
        place = self._segment[self._used : self._used + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        self._used += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.bytes_on_disk += tensor.nbytes
        return place.copy_(tensor)

    def _new_segment(self, size: int) -> None:
        try:
            self._segment = self._files.take(size)
        except OutputError as error:
            raise DataError(
                f"no place for data: {error}; set workdir to a folder with space, or pass a Dataset, which is read as "
                "needed"
            ) from error
        self._used = 0


@dataclass(frozen=True, eq=False)
class Lost(Batch):
    """Stands for a sample, or a batch, that could not be read."""

    reason: str = ""

    def __len__(self) -> int:
        return 1

    def map(self, fn: Callable[[Tensor], Any]) -> Batch:
        """Itself."""
        return self


class BatchSource(Source):
    """Batches that are held, addressed sample by sample.

    If all batches have the same layout, or are padded to different lengths and tell what is padding, any samples can be
    read together. If not, samples are read in the batches they came in; see :meth:`batches`.

    Args:
        batches: of the same inputs each.
        origin: for :meth:`describe`.
        keeper: owns the files that the batches are mapped from.
        padding: of the model; ``None``: batches of different lengths are not read together.
    """

    deterministic = True

    def __init__(
        self, batches: list[Batch], origin: str, keeper: object = None, padding: Padding | None = None
    ) -> None:
        self._held = [batch for batch in batches if len(batch)]
        self._origin = origin
        self._keeper = keeper
        if not self._held:
            raise DataError(
                f"the data ({origin}) holds no samples: give at least one batch. A generator can be read "
                "only once; what is used again must be a list, a DataLoader or a Dataset"
            )
        lengths = torch.tensor([len(batch) for batch in self._held])
        self._ends = lengths.cumsum(0)
        self._starts = self._ends - lengths
        self.came_in = int(lengths[0])
        self._fits = self._of_one_kind()
        fitting = [batch for batch, fits in zip(self._held, self._fits, strict=True) if fits]
        if not fitting:
            raise DataError(f"the data ({origin}) cannot be read: {self.left_out.names()}")
        self._first_fitting = fitting[0]
        layout = _layout(fitting[0])
        differ, shared = any(_layout(batch) != layout for batch in fitting[1:]), _has_shared(fitting)
        padded = differ and not shared and padding is not None and _can_be_padded(fitting, padding)
        self._padding = padding if padded else None
        self.varies = differ
        self.ragged = (differ and not padded) or shared

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for batch in self._held for tensor in batch.tensors())

    def __len__(self) -> int:
        return int(self._ends[-1])

    def describe(self) -> str:
        """One line for people."""
        what = "of differing shapes" if self.varies or self.ragged else shapes(self._first_fitting)
        return f"{len(self):,} samples in {len(self._held):,} batches {self._origin}, {what}"

    def contents(self) -> bytes:
        """See :meth:`Source.contents`."""
        return Description(DIGESTED).of(
            [(batch.args, batch.kwargs, batch.whole, *batch.beside.values()) for batch in self._held]
        )

    def batches(
        self, batch_size: int, order: Tensor | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Batch]]:
        """As :meth:`Source.batches`; batches that differ in shape are read one by one.

        Then ``batch_size`` and ``drop_last`` have no effect: each original batch comes once, with those of
        its rows that ``order`` asks for, when ``order`` first touches it.
        """
        return super().batches(batch_size, order, drop_last)

    def _of_one_kind(self) -> list[bool]:
        """Which batches have the numbers and axes of most samples in every argument; the others are left out."""
        found = [kinds(batch) for batch in self._held]
        samples: Counter[tuple[str, str]] = Counter()
        for kind, batch in zip(found, self._held, strict=True):
            samples.update(dict.fromkeys(kind.items(), len(batch)))
        usual = {name: kind for (name, kind), _ in reversed(samples.most_common())}
        fits = []
        for batch, kind, start, end in zip(self._held, found, self._starts.tolist(), self._ends.tolist(), strict=True):
            odd = [f"{name}: {kind[name]}{MISFIT}{usual[name]}" for name in kind if kind[name] != usual[name]]
            odd += [batch.reason] if isinstance(batch, Lost) else []
            self.left_out.add(dict.fromkeys(range(start, end) if odd else (), "; ".join(odd)))
            fits.append(not odd)
        return fits

    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        if not all(self._fits):
            fits = torch.tensor(self._fits)
            order = order[fits[torch.searchsorted(self._ends, order, right=True)]]
        if self.ragged:
            for number, positions in self._by_batch(order):
                indices = order[positions]
                yield indices, self._held[number][indices - self._starts[number]]
        else:
            for indices in chunks(order, batch_size, drop_last):
                yield indices, self._gather(indices)

    def _by_batch(self, indices: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The batches that hold these samples, by first touch, with the positions in ``indices`` of each."""
        numbers = torch.searchsorted(self._ends, indices, right=True)
        by_number = numbers.argsort(stable=True)
        _, counts = torch.unique_consecutive(numbers[by_number], return_counts=True)
        groups = by_number.split(counts.tolist()) if len(indices) else ()
        for positions in sorted(groups, key=lambda positions: int(positions[0])):
            yield int(numbers[positions[0]]), positions

    def _gather(self, indices: Tensor) -> Batch:
        """Any samples of batches with the same layout, or padded ones, as one batch."""
        if self._padding is not None:
            found = list(self._by_batch(indices))
            rows = [self._held[number][indices[positions] - self._starts[number]] for number, positions in found]
            return self._padding.merged(rows)[torch.cat([positions for _, positions in found]).argsort()]
        parts = [
            (positions, list(self._held[number][indices[positions] - self._starts[number]].tensors(beside=True)))
            for number, positions in self._by_batch(indices)
        ]
        numbers = count()

        def merge(like: Tensor) -> Tensor:
            which = next(numbers)
            merged = like.new_empty((len(indices), *like.shape[1:]))
            for positions, part in parts:
                merged[positions] = part[which]
            return merged

        return self._first_fitting.map(merge)


def spool(
    batches: Iterable[Batch],
    origin: str,
    padding: Padding | None = None,
    *,
    workdir: str | os.PathLike[str] | None = None,
    memory_limit: int = 2 * GIB,
    total_limit: int = 64 * GIB,
) -> BatchSource:
    """Read the batches once and keep them.

    Raises:
        DataError: there is no batch, or too much data.
    """
    store = Spool(workdir, memory_limit, total_limit)
    held = [batch.map(store.keep) for batch in islice(batches, MOST_BATCHES + 1)]
    if padding is not None and len({tuple(tensor.shape[1:] for tensor in batch.tensors()) for batch in held}) > 1:
        held = [padding.tidied(padding.masked(batch)) for batch in held]
    if len(held) > MOST_BATCHES:
        raise DataError(
            f"{origin} gives more than {MOST_BATCHES:,} batches, or does not end: give fewer and larger ones, or a "
            "Dataset, which is read as needed"
        )
    where = f"partly on disk ({store.bytes_on_disk / GIB:.1f} GiB)" if store.bytes_on_disk else "in memory"
    return BatchSource(held, f"from {origin}, kept {where}", store, padding)


def _layout(batch: Batch) -> Any:
    """What must be equal in two batches for their rows to fit into one batch."""
    values = [
        (leaf.dtype, leaf.shape[1:]) if isinstance(leaf, Tensor) else (type(leaf), repr(leaf))
        for leaf in leaves((batch.args, batch.kwargs, batch.beside))
    ]
    return len(batch.args), tuple(batch.kwargs), tuple(batch.beside), values


def _can_be_padded(batches: list[Batch], padding: Padding) -> bool:
    """Whether they differ in the lengths of sequences only, and tell which positions are real."""

    def looks(batch: Batch) -> Any:
        return [
            (leaf.dtype, leaf.dim(), leaf.shape[2:]) if isinstance(leaf, Tensor) else (type(leaf), repr(leaf))
            for leaf in leaves((batch.args, batch.kwargs, batch.beside))
        ]

    if any(looks(batch) != looks(batches[0]) for batch in batches):
        return False
    try:
        padding.merged([batch[:1] for batch in {str(_layout(batch)): batch for batch in batches}.values()])
    except DataError:
        return False
    return True


def _has_shared(batches: list[Batch]) -> bool:
    """Whether a tensor belongs to a whole batch, not to its samples."""
    return any(b.whole or not t.ndim or len(t) != len(b) for b in batches for t in b.tensors())
