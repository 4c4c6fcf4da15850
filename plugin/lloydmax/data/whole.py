"""Loaders that give each process a share of the samples of its own, read as a whole: every process has all samples,
and the work is shared out elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

_ACCELERATE = "accelerate.data_loader"


def whole(loader: Any) -> Any:
    """The loader itself; or, where accelerate prepared it and it reads an iterable dataset, one over all of that."""
    if not (_of_accelerate(loader) and isinstance(loader.dataset, IterableDataset)):
        return loader
    dataset: Any = loader.dataset
    while _of_accelerate(dataset):
        dataset = dataset.dataset
    size = getattr(loader, "total_batch_size", None) or loader.batch_size
    return DataLoader(dataset, batch_size=size, collate_fn=loader.collate_fn)


def reads_by_keys(loader: DataLoader[Any]) -> bool:
    """Whether the loader does no more than to collate the samples of a map-style dataset."""
    plain = type(loader).__iter__ is DataLoader.__iter__ or _of_accelerate(loader)
    return plain and loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


def drawn(loader: DataLoader[Any]) -> Iterable[Any]:
    """The keys of all samples that the loaders of all processes draw together."""
    batches: Any = loader.batch_sampler
    while _of_accelerate(batches):
        batches = batches.batch_sampler
    dataset: Any = loader.dataset
    sampler: Any = getattr(batches, "sampler", None)
    if isinstance(sampler, DistributedSampler):  # over the samples, or, as Lightning has it, what another sampler draws
        held: Any = sampler.dataset
        return range(len(held)) if held is dataset else (held[number] for number in range(len(held)))
    if _of_accelerate(sampler):  # which would count this as an epoch
        return range(len(sampler.data_source))
    if loader.batch_size is None or batches is not loader.batch_sampler:
        return (key for batch in batches for key in batch)
    return loader.sampler


def _of_accelerate(thing: Any) -> bool:
    return any(kind.__module__ == _ACCELERATE for kind in type(thing).__mro__)
