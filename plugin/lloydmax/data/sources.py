"""Unlabelled samples with random access."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lloydmax.data.batch import Batch, map_leaves
from lloydmax.data.inputs import Inputs, label_of
from lloydmax.data.randomness import random_order, split
from lloydmax.errors import DataError
from lloydmax.runtime.modes import device_of
from lloydmax.runtime.seeding import on_own_states, watched

PROBED_SAMPLES = 16
"""Samples that are read twice, to see whether a dataset is deterministic."""


class Source(ABC):
    """Unlabelled samples, numbered from 0, that can be read in any order and any number of times."""

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

        Args:
            batch_size: samples in a batch; the last one may be smaller.
            order: int64 of shape ``(samples,)``, the samples to read (repeats allowed); None: all, in order.
            drop_last: leave out the last batch if it is smaller.

        Returns:
            Pairs of sample indices, int64 of shape ``(batch,)``, and inputs.

        Raises:
            DataError: the order is not one of this source's samples, or (while reading) one is unreadable.
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
        return self._read(order, batch_size, drop_last)

    @abstractmethod
    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        """What :meth:`batches` gives, for a checked order."""


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
    """

    deterministic = True

    def __init__(self, data: Any, inputs: Inputs, origin: str = "in memory") -> None:
        self._arrays = inputs.choose(data)
        self._inputs = inputs
        self._origin = origin
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

    def __len__(self) -> int:
        return self._samples

    def describe(self) -> str:
        """One line for people."""
        return f"{self._samples:,} samples {self._origin}, {self._what}"

    def _each(self, fn: Any) -> Batch:
        kinds = (Tensor, np.ndarray)
        return Batch(map_leaves(self._arrays.args, fn, kinds), map_leaves(self._arrays.kwargs, fn, kinds))

    def _gather(self, rows: Tensor) -> Batch:
        def select(array: Any) -> Any:
            if isinstance(array, np.ndarray):
                return array[rows.numpy()]
            return array.detach().index_select(0, rows.to(array.device)).cpu()

        return self._inputs.finish(self._each(select))

    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        for rows in chunks(order, batch_size, drop_last):
            yield rows, self._gather(rows)


class DatasetSource(Source):
    """Samples of a map-style dataset, read through a DataLoader.

    Args:
        dataset: anything with ``__getitem__``.
        inputs: how the model is called.
        keys: what to ask the dataset for, sample by sample; None: ``0 .. len(dataset) - 1``.
        seed: of the generator that seeds the workers.
        deterministic: whether a sample always has the same values; None: found out when first asked.
        description: for :meth:`describe`, in place of the usual one.
        **loading: options of the DataLoader (``collate_fn``, ``num_workers`` ...).
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        inputs: Inputs,
        *,
        keys: Sequence[Any] | None = None,
        seed: int = 0,
        deterministic: bool | None = None,
        description: str | None = None,
        **loading: Any,
    ) -> None:
        self.dataset = dataset
        self._inputs = inputs
        self.keys: Sequence[Any] = range(len(dataset)) if keys is None else keys  # type: ignore[arg-type]
        self._deterministic = deterministic
        self._description = description
        self._loading = {**loading, "generator": Generator().manual_seed(seed)}
        if not len(self.keys):
            raise DataError(f"the dataset {type(dataset).__name__} is empty: give at least one sample")
        self._draws = False
        self._what = shapes(self._probe(1))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def deterministic(self) -> bool:
        """Whether the first samples, read twice, are the same (found out when first asked, then kept)."""
        if self._deterministic is None:
            once, again = (self._probe(PROBED_SAMPLES, seed) for seed in (1, 2))
            self._deterministic = same_bytes(once, again)
        return self._deterministic

    def describe(self) -> str:
        """One line for people."""
        return self._description or f"{len(self):,} samples of {type(self.dataset).__name__}, {self._what}"

    def read_labels(self) -> Any:
        """Of tuples the last elements, of mappings the entries with the name of labels; ``None`` where one has none."""
        if (given := super().read_labels()) is not None:
            return given
        found = [label_of(self.dataset[key]) for key in self.keys]
        return None if any(label is None for label in found) else torch.stack([torch.as_tensor(x) for x in found])

    def _probe(self, samples: int, seed: int = 0) -> Batch:
        """The first samples, read in this process without a trace in the global generators."""
        order = torch.arange(min(samples, len(self)))
        loading = {"collate_fn": self._loading.get("collate_fn")}
        (_, batch), draws = watched(lambda: next(self._load([order], loading)), seed)
        self._draws |= draws
        return batch

    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        batches = self._load(chunks(order, batch_size, drop_last), self._loading)
        if not self._draws or self._loading.get("num_workers"):
            return batches
        return iter(lambda: on_own_states(lambda: next(batches, None)), None)

    def _load(self, pieces: list[Tensor], loading: dict[str, Any]) -> Iterator[tuple[Tensor, Batch]]:
        keys = [[self.keys[index] for index in piece.tolist()] for piece in pieces]
        loader = DataLoader(self.dataset, batch_sampler=keys, **loading)
        for rows, item in zip(pieces, guarded(loader, type(self.dataset).__name__), strict=True):
            batch = self._inputs(item).map(Tensor.cpu)
            if len(batch) != len(rows):
                raise DataError(
                    f"the collate_fn of {type(self.dataset).__name__} made {len(batch)} rows of {len(rows)} "
                    "samples: it must keep one row a sample"
                )
            yield rows, batch


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
            raise DataError(f"the data ({name}) cannot be read: {type(error).__name__}: {error}") from error
        yield item


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
