"""Samples of datasets, read through a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from lloydmax.data.batch import Batch
from lloydmax.data.image_folder import ImageFolder
from lloydmax.data.inputs import WHOLE, Inputs, label_of
from lloydmax.data.items import Collating, Reading, Unreadable
from lloydmax.data.picture_files import stamps
from lloydmax.data.sound_files import Sounds
from lloydmax.data.sources import EXAMPLES, Source, chunks, guarded, said, same_bytes, shapes
from lloydmax.errors import DataError
from lloydmax.runtime.seeding import on_own_states, watched
from lloydmax.runtime.text import counted

PROBED_SAMPLES = 16
"""Samples that are read twice, to see whether a dataset is deterministic."""
MOST_SAMPLES = 2**31
"""In a dataset: an order of them takes 16 GiB."""
_LAYOUT_SAMPLES = 3
"""First samples whose usual layout all others have to have."""


def _length(dataset: Any) -> int:
    """How many samples a dataset says that it has.

    Raises:
        DataError: it does not say so, or says more than there can be.
    """
    name = type(dataset).__name__
    if isinstance(dataset, type):
        raise DataError(f"the data is the class {dataset.__name__}, not a dataset: make one of it")
    try:
        samples = len(dataset)
    except Exception as error:
        raise DataError(f"the length of the dataset {name} cannot be told: {said(error)}") from error
    if samples > MOST_SAMPLES:
        raise DataError(f"the dataset {name} says that it has {samples:,} samples, more than {MOST_SAMPLES:,}")
    return samples


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
        dataset: Dataset[Any] | Sequence[Any],
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
        self.keys: Sequence[Any] = range(_length(dataset)) if keys is None else keys
        self._deterministic = deterministic
        self._description = description
        self._collating = Collating(loading.pop("collate_fn", None), inputs)
        self._loading = {**loading, "generator": Generator().manual_seed(seed)}
        if not len(self.keys):
            raise DataError(f"the dataset {type(dataset).__name__} is empty: give at least one sample")
        first, self._draws = watched(self._first_look, 0)
        self._what = shapes(first)

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
        return self._description or f"{counted(len(self), 'samples')} of {type(self.dataset).__name__}, {self._what}"

    def state(self) -> dict[str, Any]:
        """With the generator that seeds workers, where these may draw."""
        seeds = self._loading["generator"].get_state() if self._loading.get("num_workers") else None
        return {**super().state(), "seeds": seeds}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        super().load(state)
        if state["seeds"] is not None:
            self._loading["generator"].set_state(state["seeds"])

    def contents(self) -> bytes:
        """See :meth:`Source.contents`."""
        dataset, loading = self.dataset, self._loading
        held = (stamps(dataset.files), type(dataset)) if isinstance(dataset, (ImageFolder, Sounds)) else dataset
        workers = None if self.deterministic else loading.get("num_workers")
        keys = self.keys if isinstance(self.keys, range) else list(self.keys)
        return self._described((held, self._collating.collate, loading.get("worker_init_fn")), (keys, workers))

    def _examples(self) -> Any:
        """Read without a trace in what was left out."""
        reading, keys = Reading(self.dataset), self.keys[:: max(1, len(self) // EXAMPLES)]

        def read() -> Any:
            items = [item for item in map(reading.__getitem__, keys) if not isinstance(item, Unreadable)]
            try:
                return len(items), self._collating(items)
            except DataError:
                return items

        return watched(read, 0)[0]

    def read_labels(self) -> Any:
        """Of tuples the last elements, of mappings the entries with the name of labels; ``None`` where one has none."""
        if (given := super().read_labels()) is not None:
            return given
        reading = Reading(self.dataset)
        labels: dict[int, Tensor] = {}
        for index, key in enumerate(self.keys):
            if isinstance(item := reading[key], Unreadable):
                continue
            if (label := label_of(item)) is None:
                return None
            labels[index] = torch.as_tensor(label)
        if not labels:
            return None
        any_label = next(iter(labels.values()))  # of a sample that is left out of every batch
        return torch.stack([labels.get(index, any_label) for index in range(len(self))])

    def _first_look(self) -> Batch:
        """The first sample that can be read; the layout of most of the first ones becomes that of all."""
        reading = Reading(self.dataset)
        items = [reading[key] for key in self.keys[:_LAYOUT_SAMPLES]]
        self._collating = self._collating.suiting(items)
        self.varies = not self._collating.plain
        self._collating.layout = self._collating.usual_layout(items)
        for at in range(min(PROBED_SAMPLES, len(self))):
            item = items[at] if at < len(items) else reading[self.keys[at]]
            for failed, batch in guarded(map(self._collating, [[item]]), type(self.dataset).__name__):
                self.left_out.add(dict.fromkeys([at] * len(failed), "".join(failed.values())))
                if batch is not None:
                    return self._inputs(batch).map(Tensor.cpu)
        raise DataError(f"the data ({type(self.dataset).__name__}) cannot be read: {self.left_out.names()}")

    def _probe(self, samples: int, seed: int = 0) -> Batch:
        """Some of the first samples, read in this process without a trace in the global generators."""
        order = torch.arange(min(samples, len(self)))
        batch, draws = watched(lambda: next((batch for _, batch in self._look(order)), Batch()), seed)
        self._draws |= draws
        return batch

    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        batches = self._load(chunks(order, batch_size, drop_last), self._loading)
        if not self._draws or self._loading.get("num_workers"):
            return batches
        return iter(lambda: on_own_states(lambda: next(batches, None)), None)

    def _look(self, order: Tensor) -> Iterator[tuple[Tensor, Batch]]:
        """In this process, unless workers are set up by a function; their own generator stays where it is."""
        loading = self._loading if self._loading.get("worker_init_fn") else {}
        return self._load([order], {**loading, "generator": Generator()})

    def _load(self, pieces: list[Tensor], loading: dict[str, Any]) -> Iterator[tuple[Tensor, Batch]]:
        keys = [[self.keys[index] for index in piece.tolist()] for piece in pieces]
        loader = DataLoader(Reading(self.dataset), batch_sampler=keys, collate_fn=self._collating, **loading)
        for rows, (failed, item) in zip(pieces, guarded(loader, type(self.dataset).__name__), strict=True):
            if failed:
                self.left_out.add({int(rows[at]): why for at, why in failed.items()})
                rows = rows[[at for at in range(len(rows)) if at not in failed]]
            if item is None:
                yield rows, Batch()
                continue
            batch = self._inputs(item).map(Tensor.cpu)
            made = len(batch)
            if batch.whole:  # those that the user made himself may hold anything
                made = len(rows) if isinstance(item, Batch) else len(batch.args[0])
            if made != len(rows):
                raise DataError(
                    f"the collate_fn of {type(self.dataset).__name__} made {made} rows of {len(rows)} "
                    "samples: it must keep one row a sample. To leave samples out, give "
                    f"torch.utils.data.Subset(dataset, indices). {WHOLE}"
                )
            yield rows, batch
