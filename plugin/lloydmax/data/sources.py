"""Unlabelled samples with random access."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lloydmax.data.batch import Batch, map_leaves
from lloydmax.data.faults import faults, kinds, signature
from lloydmax.data.inputs import Inputs
from lloydmax.data.left_out import LeftOut
from lloydmax.data.randomness import random_order, split
from lloydmax.errors import DataError
from lloydmax.runtime.description import Description
from lloydmax.runtime.modes import device_of
from lloydmax.runtime.seeding import watched
from lloydmax.runtime.text import counted, printable

_LONGEST = 500
"""Characters of what the user's own code said that are shown."""
_WORKER = "Original Traceback"
DIGESTED = 2**30
"""Bytes of tensors and arrays that tell data apart in full; beyond that pieces of them do."""
EXAMPLES = 32
"""Computed samples that tell data apart."""
_NAMED = 20
"""Samples that are named in a message."""


class Source(ABC):
    """Unlabelled samples, numbered from 0, that can be read in any order and any number of times."""

    came_in: int | None = None
    """Samples of a batch as the data were given, where they were in batches."""
    made: bool = False
    """Whether nobody ever wrote, drew or recorded these samples: what comes next in them is not known."""
    varies: bool = False
    """Whether sequences differ in length, so that those of one batch are padded otherwise than those of another."""
    known: bytes | None = None
    """The :meth:`contents`, where the run that goes on has made them already."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @property
    @abstractmethod
    def deterministic(self) -> bool:
        """Whether a sample has the same values each time it is read."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people: how many samples of what, from where."""

    def read_labels(self) -> Any:
        """The labels of all samples, for those who ask for their use; ``None`` where the source has none.

        A source of one's own may have them as an attribute ``labels``.
        """
        return getattr(self, "labels", None)

    @property
    def left_out(self) -> LeftOut:
        """The samples that were left out so far, because they could not be read or are not finite."""
        found: LeftOut = self.__dict__.setdefault("_left_out", LeftOut())
        return found

    def tell(self) -> None:
        """Warn of samples that were left out and that no warning has named yet."""
        self.left_out.tell(len(self), self.describe())

    def leave_out(self, found: Mapping[int, str], read: int) -> None:
        """Leave out samples from now on, whatever their values are; one warning names them.

        Args:
            found: the reasons, by index.
            read: samples that were looked at.

        Raises:
            DataError: too many, see :meth:`batches`.
        """
        if found:
            self.left_out.refuse(found)
            self.left_out.judge(len(self), self.describe(), len(found), read, self.deterministic)
            self.tell()

    def figures(self) -> dict[str, Any]:
        """For the report: ``samples``, how many of them were ``left_out``, and ``which``, the reasons by index."""
        return self.left_out.figures(len(self))

    def state(self) -> dict[str, Any]:
        """What reading has changed so far, as plain data, for a run that goes on after a kill."""
        return {"left_out": self.left_out.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.left_out.load(state["left_out"])

    def contents(self) -> bytes:
        """A digest (16 bytes) that tells these samples from others: of tensors and arrays that are held, of files, of
        code; of samples that are computed, and the same each time, 32 ones."""
        notes = ("_left_out", "_kinds", "_clean", "known")
        return self._described({key: held for key, held in vars(self).items() if key not in notes}, len(self))

    def sketch(self) -> bytes:
        """A digest (16 bytes) of how many samples there are, and of 32 of them, where these are the same each time."""
        return Description().of((len(self), self._examples() if self.deterministic else None))

    def _described(self, held: Any, told: Any) -> bytes:
        """The same, of what the samples are made of, and of what counts in any case."""
        steady = self.deterministic
        made = Description(DIGESTED, files=True, settings=not steady).of((type(self), held))
        return Description().of((made, told, self._examples() if steady else None))

    def _examples(self) -> Any:
        """Some samples of those that are the same each time, to be told from others."""
        order = torch.arange(len(self))[:: max(1, len(self) // EXAMPLES)]
        return watched(lambda: [[*batch.tensors()] for _, batch in self._look(order)], 0)[0]

    def first(self, samples: int) -> Batch:
        """The first ``samples`` samples as a batch, without those that cannot be used; if none can, the next ones. Read
        without a trace in the global random generators."""
        return watched(lambda: self._first(samples), 0)[0]

    def _first(self, samples: int) -> Batch:
        for order in torch.arange(len(self)).split(samples):
            for _, batch in self._usable(self._look(order), order, some=False):
                self.tell()
                return batch
        raise DataError(f"none of the samples can be used ({self.describe()}): {self.left_out.names()}")

    def look_through(self, batch_size: int) -> None:
        """Read everything once, so that what cannot be used is known, and told, before any work.

        Where there is nothing, it is not looked for again.
        """
        for _ in self.batches(batch_size):
            pass
        self.__dict__["_clean"] = not self.left_out

    def draw(self, samples: int | None, seed: int) -> Tensor:
        """The indices, int64, of ``samples`` samples without repeats, in random order; of all where there are fewer, or
        where it is ``None``."""
        return random_order(len(self), samples, seed)

    def split(self, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
        """The indices, int64, of the samples to train on and of ``held_out`` others, both in random order.

        Raises:
            DataError: nothing would be left to train on.
        """
        return split(self, held_out, seed)

    def through(
        self, model: nn.Module, batch_size: int, order: Tensor | None = None, *, channels_last: bool = True
    ) -> Iterator[tuple[Tensor, Any]]:
        """Run a model on the samples, in batches, on its own device.

        Args:
            model: run in the modes that it is in.
            batch_size: see :meth:`batches`.
            order: see :meth:`batches`.
            channels_last: give 4-D inputs that memory format, which convolutions prefer.

        Returns:
            Pairs of sample indices, int64 of shape ``(batch,)``, and what the model gives.
        """
        for indices, batch in self.batches(batch_size, order):
            yield indices, batch.to(device_of(model), channels_last=channels_last).run(model)

    def batches(
        self, batch_size: int, order: Tensor | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Batch]]:
        """Read the samples in batches, on the CPU.

        A sample that holds NaN or infinities, or that cannot be read, is left out of its batch, and a batch with no
        other is left out too. One warning a pass names them; :attr:`left_out` has them all.

        Args:
            batch_size: samples in a batch; the last one may be smaller.
            order: int64 of shape ``(samples,)``, the samples to read (repeats allowed); None: all, in order.
            drop_last: leave out the last batch if it is smaller.

        Returns:
            Pairs of sample indices, int64 of shape ``(batch,)``, and inputs.

        Raises:
            DataError: the order is not one of this source's samples, or (while reading) more than 1 %, and at least 2,
                of the samples cannot be used, or none of two or more that were asked for.
        """
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, not {batch_size}")
        if order is None:
            order = torch.arange(len(self))
        if order.ndim != 1 or order.dtype != torch.int64:
            raise DataError(f"order must be 1-D and int64, not {order.dtype} of shape {tuple(order.shape)}")
        order = order.detach().cpu()
        if len(order) and not 0 <= int(order.min()) <= int(order.max()) < len(self):
            raise DataError(f"order is of samples {order.min()} to {order.max()}, not 0 to {len(self) - 1}")
        return self._usable(self._read(order, batch_size, drop_last), order)

    def _usable(
        self, read: Iterator[tuple[Tensor, Batch]], order: Tensor, some: bool = True
    ) -> Iterator[tuple[Tensor, Batch]]:
        """What is ``read`` in this order, without the samples that cannot be used; ``some`` have to be left."""
        refused = self.left_out.refused
        if self.__dict__.get("_clean") and not refused:
            yield from read
            return
        known, before, given = 0, len(self.left_out), 0
        looked: list[Any] = []
        for indices, batch in guarded(read, type(self).__name__):
            if (looks := signature(batch)) != looked:
                looked = looks
                self._check_kinds(indices, batch)
            if bad := faults(batch):
                self.left_out.add({index: why for row, why in bad.items() for index in _samples(indices, batch, row)})
                keep = torch.tensor([row for row in range(len(batch)) if row not in bad], dtype=torch.int64)
                indices, batch = indices[keep], batch[keep]
            if refused and (rest := _kept(indices, batch, refused)) is not None:
                indices, batch = indices[rest], batch[rest]
            if len(self.left_out) > known:
                known = len(self.left_out)
                self.left_out.judge(len(self), self.describe(), known - before, len(order), self.deterministic)
            if len(indices):
                given += len(indices)
                yield indices, batch
        if some and not given and len(order) > 1 and len(self.left_out):
            raise DataError(
                f"none of the {len(order):,} samples asked for can be used ({self.describe()}): {self.left_out.names()}"
            )
        self.tell()

    def _check_kinds(self, indices: Tensor, batch: Batch) -> None:
        """Refuse a batch of other numbers or axes than the first one that was read."""
        found = kinds(batch)
        before: dict[str, str] = self.__dict__.setdefault("_kinds", {})
        for name, kind in found.items():
            if before.setdefault(name, kind) != kind:
                named = ", ".join(map(str, indices[:_NAMED].tolist())) + (" ..." if len(indices) > _NAMED else "")
                raise DataError(
                    f"samples {named} have {kind} in {name}, those before had {before[name]} ({self.describe()}): "
                    "make all of them alike"
                )

    @abstractmethod
    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        """What :meth:`batches` gives, for a checked order; it need not look at the values."""

    def _look(self, order: Tensor) -> Iterator[tuple[Tensor, Batch]]:
        """What :meth:`_read` gives, as one batch, for a look at a few samples before the work."""
        return self._read(order, len(order), False)


def _samples(indices: Tensor, batch: Batch, row: int) -> list[int]:
    """The samples of a row; those of a whole stay together."""
    found: list[int] = indices.tolist() if batch.whole else [int(indices[row])]
    return found


def _kept(indices: Tensor, batch: Batch, refused: AbstractSet[int]) -> Tensor | None:
    """The rows that are not refused, int64; ``None``: all."""
    rows = [row for row in range(len(batch)) if refused.isdisjoint(_samples(indices, batch, row))]
    return None if len(rows) == len(batch) else torch.tensor(rows, dtype=torch.int64)


def chunks(order: Tensor, batch_size: int, drop_last: bool) -> list[Tensor]:
    """``order`` in pieces of ``batch_size``."""
    pieces = list(order.split(batch_size)) if len(order) else []
    return pieces[:-1] if drop_last and pieces and len(pieces[-1]) < batch_size else pieces


class ArraySource(Source):
    """Samples along the first axis of tensors or numpy arrays, which may be memory-mapped.

    Args:
        data: a tensor, an array, or a mapping of names to these.
        inputs: how the model is called.
        origin: for :meth:`describe`, such as ``"from data.npy"``.
        file: that the data come from.
    """

    deterministic = True

    def __init__(self, data: Any, inputs: Inputs, origin: str = "in memory", file: Path | None = None) -> None:
        self._arrays = inputs.choose(data)
        self._inputs = inputs
        self._origin, self._file = origin, file
        found: list[tuple[int, ...]] = []
        self._each(lambda array: found.append(tuple(array.shape)))
        if not found or () in found or len({shape[0] for shape in found}) > 1:
            raise DataError(
                f"the data {origin} must have the samples along the first axis, the same number in each, "
                f"not shapes {found}"
            )
        self._samples = found[0][0]
        if not self._samples:
            raise DataError(f"the data {origin} is empty: its first axis, the samples, has length 0")
        self._what = shapes(self._gather(torch.zeros(1, dtype=torch.int64)))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        sizes: list[int] = []
        self._each(lambda array: sizes.append(array.nbytes))
        return sum(sizes)

    def __len__(self) -> int:
        return self._samples

    def describe(self) -> str:
        """One line for people."""
        return f"{counted(self._samples, 'samples')} {self._origin}, {self._what}"

    def contents(self) -> bytes:
        """See :meth:`Source.contents`."""
        file = Path(self._file) if self._file and self.nbytes > DIGESTED else None
        description = Description(DIGESTED, files=True)
        return description.of((file, self._arrays.args, self._arrays.kwargs, *self._arrays.beside.values()))

    def _each(self, fn: Any) -> Batch:
        kinds, held = (Tensor, np.ndarray), self._arrays
        args, kwargs, beside = (map_leaves(part, fn, kinds) for part in (held.args, held.kwargs, held.beside))
        return Batch(args, kwargs, beside=beside)

    def _gather(self, rows: Tensor) -> Batch:
        def select(array: Any) -> Any:
            if isinstance(array, np.ndarray):
                return array[rows.numpy()]
            return array.detach().index_select(0, rows.to(array.device)).cpu()

        return self._inputs.finish(self._each(select))

    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        for rows in chunks(order, batch_size, drop_last):
            yield rows, self._gather(rows)


def guarded(items: Iterable[Any], name: str) -> Iterator[Any]:
    """``items``, with a failure of the user's own code told as a :class:`DataError`."""
    iterator: Iterator[Any] | None = None
    while True:
        try:
            iterator = iter(items) if iterator is None else iterator
            item = next(iterator)
        except StopIteration:
            return
        except DataError as error:  # a worker process adds its traceback to the message
            raise DataError(str(error).rsplit("DataError: ", 1)[-1].strip()) from error
        except Exception as error:
            raise DataError(f"the data ({name}) cannot be read: {said(error)}") from error
        yield item


def said(error: Exception) -> str:
    """What the user's own code said, on one line; of a worker process, without the way there."""
    text = str(error).strip()
    kind = type(error).__name__
    return printable(text.splitlines()[-1] if _WORKER in text else f"{kind}: {text}", _LONGEST)


def shapes(batch: Batch) -> str:
    """The inputs of a sample in words, such as ``float32 3x224x224``."""
    return " and ".join(
        f"{str(tensor.dtype).removeprefix('torch.')} {'x'.join(map(str, tensor.shape[1:])) or 'scalars'}"
        for tensor in batch.tensors()
    )


def same_bytes(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same tensors, bit for bit."""

    def contents(batch: Batch) -> list[tuple[torch.dtype, torch.Size, bytes]]:
        return [
            (tensor.dtype, tensor.shape, tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
            for tensor in batch.tensors()
        ]

    return contents(one) == contents(other)
