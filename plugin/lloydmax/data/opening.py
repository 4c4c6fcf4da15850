"""Any form of unlabelled data as a :class:`Source`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lloydmax.data.batch import Batch
from lloydmax.data.datasets import DatasetSource
from lloydmax.data.files import read_arrays
from lloydmax.data.image_folder import ImageFolder, images
from lloydmax.data.inputs import Inputs
from lloydmax.data.items import Collating, Unreadable
from lloydmax.data.kept import BatchSource, Lost, spool
from lloydmax.data.sound_files import Sounds, are_sounds, sounds
from lloydmax.data.sources import ArraySource, Source, guarded
from lloydmax.data.texts import LENGTH, Texts, are_texts, texts, tokenizing
from lloydmax.data.tokens import IDS
from lloydmax.data.whole import drawn, reads_by_keys, whole
from lloydmax.errors import DataError
from lloydmax.runtime.files import shown
from lloydmax.runtime.seeding import check_seed, undisturbed

MANY_PICTURES = 256
"""More pictures than this are read by worker processes."""
COLLATED_SAMPLES = 64
"""Samples of an iterable dataset that are made one batch."""
MOST_DRAWS = 2**27
"""A sampler that draws more is taken to be endless."""
LOOKED_THROUGH = 2**30
"""Bytes up to which arrays and kept batches are looked through when they are opened."""
AT_ONCE = 2**23
"""Bytes of a batch then."""
_WORDS = 3
"""More than a path has."""


def unlabelled(
    data: Any,
    model: nn.Module,
    *,
    workdir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    tokenizer: Any = None,
) -> Source:
    """Samples of ``data`` as inputs of ``model``, with random access.

    Args:
        data: a DataLoader or other iterable of batches (tensors, arrays, tuples, lists or dicts; labels are
            ignored; a list or tuple of tensors is a list of batches, and so is one of dicts, but for samples as
            transformers has them: ``pixel_values`` of three axes and the like), a dataset, a tensor, an array or a
            dict of these (first axis: samples), a path (a folder of pictures or sounds, ``.npy``, ``.npz``,
            ``.safetensors``, ``.csv``, ``.tsv``, ``.parquet``), or a source, which is returned as
            it is. Of models that take tokens also texts (in
            any iterable, :func:`texts`, a ``.txt`` or ``.jsonl`` file or a folder of these), lists of token numbers,
            and what a tokenizer gives, one by one or in batches. A loader's sampler, ``collate_fn`` and workers are
            kept. What has no random access is read once and kept: 2 GiB in memory, more on disk, at most 64 GiB.
        model: its ``forward`` tells which parts of a batch are inputs, its parameters tell the dtype.
        workdir: the folder for what does not fit into memory (default: the system's temporary folder).
        seed: decides what a random sampler draws, and the seeds of worker processes.
        tokenizer: for texts: of ``transformers`` or ``tokenizers``, or any function from a text to token numbers.

    Raises:
        DataError: the data is empty, cannot be read, does not fit the model, or holds more than 1 % (and at least 2)
            samples that cannot be used. Arrays and kept batches up to 1 GiB, and the headers of pictures, are looked
            through at once; the rest is when it is read.
    """
    if isinstance(data, Source):
        return data
    seed = check_seed(seed)
    source = _opened(whole(data), model, Inputs(model, tokenizer), workdir, seed)
    if isinstance(source, (ArraySource, BatchSource)) and source.nbytes <= LOOKED_THROUGH:
        source.look_through(max(1, AT_ONCE * len(source) // max(1, source.nbytes)))
    return source


def _opened(data: Any, model: nn.Module, inputs: Inputs, workdir: str | os.PathLike[str] | None, seed: int) -> Source:
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        if not os.fspath(data):
            raise DataError("the path of the data is empty: name a file or folder; '.' is the one that you are in")
        try:
            folder = path.is_dir()
        except OSError as error:
            raise DataError(f"{shown(path)}: {error.strerror or error}") from error
        if are_texts(path):
            data = texts(path)
        elif not folder:
            _refuse_text(data)
            read = read_arrays(path, inputs)
            if not isinstance(read, list):
                return ArraySource(read, inputs, f"from {path}", path)
            data = texts(read)
        elif are_sounds(path):
            data = sounds(path)
        else:
            data = images(path, channels=inputs.image_channels, own=inputs.own_preparation)
    rows = isinstance(data, (list, tuple)) or (isinstance(data, np.ndarray) and data.ndim > 0)
    if rows and len(data) and isinstance(data[0], str):
        data = texts(data)
    if isinstance(data, Texts):
        return _texts(data, inputs, workdir, seed)
    if isinstance(data, ImageFolder):
        return _pictures(data, inputs, seed)
    if isinstance(data, Sounds):
        data = data.suiting(model, inputs)
        source = DatasetSource(data, inputs, seed=seed, deterministic=True, description=data.describe())
        source.left_out.allow(data.skip_bad, "lloydmax.sounds")
        return source
    if isinstance(data, Mapping) and inputs.sequences.has_many(data):
        return _sequences(inputs.sequences.rows(data), inputs, workdir, seed)
    if isinstance(data, Mapping) and data and all(hasattr(one, "column_names") for one in data.values()):
        names = ", ".join(map(repr, data))
        raise DataError(f"the data are several sets ({names}): give one of them, as in data[{next(iter(data))!r}]")
    if isinstance(data, (Tensor, np.ndarray, Mapping)):
        return ArraySource(data, inputs)
    if isinstance(data, DataLoader) and reads_by_keys(data):
        return _loader(data, inputs, seed)
    if _is_map_style(data):
        return DatasetSource(data, inputs, seed=seed)
    if isinstance(data, Iterable):
        name = type(data).__name__
        if isinstance(data, (list, tuple)):
            if data and inputs.sequences.has(data[0]):
                return _sequences(data, inputs, workdir, seed)
            if data and inputs.is_sample(data[0]):
                return DatasetSource(data, inputs, seed=seed, deterministic=True)
            return spool(_batches(data, inputs), f"a {name}", inputs.padding, workdir=workdir)
        with undisturbed(seed):
            if isinstance(data, IterableDataset):
                return spool(_collated(data, inputs), f"a {name}", inputs.padding, workdir=workdir)
            first, items = _peeked(guarded(data, name))
            if isinstance(first, str):
                return _texts(texts(islice(items, MOST_DRAWS)), inputs, workdir, seed)
            if inputs.sequences.has(first):
                return _sequences(list(islice(items, MOST_DRAWS)), inputs, workdir, seed)
            return spool(_batches(items, inputs), f"a {name}", inputs.padding, workdir=workdir)
    raise DataError(
        f"unlabelled data cannot be of type {type(data).__name__}: give a DataLoader, an iterable of "
        "batches, a Dataset, a tensor, an array, a list of texts, or the path of a folder of pictures or an array file"
    )


def _refuse_text(data: str | os.PathLike[str]) -> None:
    """What is surely meant as a text is told so, and not that there is no such file."""
    if isinstance(data, str) and len(data.split()) > _WORDS and not Path(data).suffix:
        raise DataError("the data is one text, which is taken as a path: give a list of texts, or a .txt file")


def _peeked(items: Iterator[Any]) -> tuple[Any, Iterator[Any]]:
    """The first of some items (``None``: there is none), and all of them."""
    first = list(islice(items, 1))
    return (first[0] if first else None), chain(first, items)


def _texts(data: Texts, inputs: Inputs, workdir: str | os.PathLike[str] | None, seed: int) -> Source:
    """Texts as packed sequences, or one by one, as they say or as suits the model."""
    tokenizer = tokenizing(data, inputs.sequences.tokenizer)
    if inputs.packs if data.pack is None else data.pack:
        packed = data.packed(tokenizer, inputs.longest)
        return ArraySource(packed if inputs.sequences.positional else {IDS: packed}, inputs, data.origin)
    longest = data.length or min(LENGTH, inputs.longest or LENGTH)
    inputs.sequences = replace(inputs.sequences, tokenizer=tokenizer, longest=longest)
    return _sequences(data.samples(), inputs, workdir, seed, f"texts {data.origin}")


def _sequences(
    data: Sequence[Any],
    inputs: Inputs,
    workdir: str | os.PathLike[str] | None,
    seed: int,
    what: str = "sequences in memory",
) -> Source:
    """Samples that are sequences, padded in each batch; where nothing would tell padding, in batches of one length."""
    if inputs.padding.tells:
        return DatasetSource(data, inputs, seed=seed, deterministic=True, description=f"{len(data):,} {what}")
    of_length: dict[int, list[Batch]] = {}
    for number, item in enumerate(data):
        try:
            row = inputs.sequences.row(item)
        except DataError as error:
            raise DataError(f"sample {number}: {error}") from error
        of_length.setdefault(next(row.tensors()).shape[1], []).append(row)
    parts = (
        rows[n : n + COLLATED_SAMPLES]
        for _, rows in sorted(of_length.items())
        for n in range(0, len(rows), COLLATED_SAMPLES)
    )
    return spool((inputs(inputs.padding.merged(part)) for part in parts), what, inputs.padding, workdir=workdir)


def _batches(items: Iterable[Any], inputs: Inputs) -> Iterator[Batch]:
    for number, item in enumerate(items):
        try:
            yield Lost(reason=f"batch {number} is None") if item is None else inputs(item)
        except DataError as error:
            raise DataError(f"batch {number}: {error}") from error


def _collated(data: IterableDataset[Any], inputs: Inputs) -> Iterator[Batch]:
    """Batches of the items that can be read and are of one layout, between them the others."""
    collating = Collating(None, inputs)

    def collate(items: list[Any]) -> tuple[int, dict[int, str], Any]:
        nonlocal collating
        found = [Unreadable("the dataset gave None") if item is None else item for item in items]
        if collating.layout is None:
            collating = collating.suiting(found)
            collating.layout = collating.usual_layout(found)
        return len(items), *collating(found)

    loader = DataLoader(data, batch_size=COLLATED_SAMPLES, collate_fn=collate)
    for count, failed, item in guarded(loader, type(data).__name__):
        batch = None if item is None else inputs(item)
        yield from _with_lost(batch, failed, count)


def _with_lost(batch: Batch | None, failed: dict[int, str], count: int) -> Iterator[Batch]:
    """The rows of a batch, in runs, where those that failed were."""
    if batch is not None and not failed:
        yield batch
        return
    start = 0
    for number, at in enumerate((*sorted(failed), count)):
        end = at - number  # so many rows lie before it
        if batch is not None and end > start:
            yield batch[start:end]
        if at < count:
            yield Lost(reason=failed[at])
        start = end


def _pictures(folder: ImageFolder, inputs: Inputs, seed: int) -> DatasetSource:
    """The pictures, after a look at the header of every file."""
    described = folder.describe()
    workers = folder.workers if len(folder) > MANY_PICTURES else 0
    source = DatasetSource(folder, inputs, seed=seed, deterministic=True, description=described, num_workers=workers)
    source.left_out.allow(folder.skip_bad, "lloydmax.images")
    source.left_out.add(folder.unreadable())
    source.left_out.judge(len(folder), described)
    source.tell()
    return source


def _is_map_style(data: object) -> bool:
    """Whether this is a dataset with random access, of torch or by its methods."""
    return (
        hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
        and not isinstance(data, (IterableDataset, DataLoader, Sequence))
    )


def _loader(loader: DataLoader[Any], inputs: Inputs, seed: int) -> DatasetSource:
    generators = (loader.generator, getattr(loader.sampler, "generator", None))
    with undisturbed(seed, *generators):
        keys = list(islice(guarded(drawn(loader), "its sampler"), MOST_DRAWS + 1))
    if len(keys) > MOST_DRAWS:
        raise DataError("the sampler of the DataLoader does not end: use one that draws a fixed number")
    name = type(loader.dataset).__name__
    if not keys:
        raise DataError(f"the DataLoader over {name} is empty: its sampler draws no sample")
    source = DatasetSource(
        loader.dataset,
        inputs,
        keys=keys,
        seed=seed,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        timeout=loader.timeout,
        prefetch_factor=loader.prefetch_factor,
        multiprocessing_context=loader.multiprocessing_context,
        pin_memory=loader.pin_memory and torch.cuda.is_available(),
    )
    source.came_in = loader.batch_size
    return source
