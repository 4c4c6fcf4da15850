"""A trial before any work: whether a model takes the data, and what its outputs are like."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.data import Batch, Source
from lloydmax.data.batch import DECODER_REAL, REAL
from lloydmax.data.padding import DECODER_INPUT, DECODER_MASKS, MASKS
from lloydmax.errors import DataError, RecoveryError
from lloydmax.network.guard import guarded
from lloydmax.network.kinds import ROOT
from lloydmax.network.outputs import AskedOutputs, Leaf, Outputs, places_in
from lloydmax.network.trees import Path, counted, described, resolved, written
from lloydmax.runtime.cache import Cache, number
from lloydmax.runtime.digest import model_fingerprint
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.runtime.seeding import seeded
from lloydmax.teacher.kinds import kinds, vocabularies_of
from lloydmax.teacher.refusal import ask, is_vague

_MANY, _FEW = 3, 2
"""Samples of the two batches. Not 1: some models drop an axis of length 1."""
_USUAL = 64
"""Samples of a batch as the steps read them, for models that cannot take so few."""
_TELLING, _TELLING_VALUES = 32, 1 << 24
"""Samples, and values, from which it is told what the outputs are."""
_AT_ONCE = 4
"""Samples of one pass then."""
_VOCABULARY, _TOLD = 1 << 12, 1 << 21
"""Classes that are very many, and values of such an output from which it is told what it is."""
_OTHERS = (1, 4, 8, 10, 16, 32, 100, 128)
"""Samples of a batch that are tried in the end, to tell which a model takes."""


def trial(
    model: nn.Module, source: Source, asked: AskedOutputs | str | int | None = None, cache: Cache | None = None
) -> Outputs:
    """Run a model on two tiny batches of different sizes: the axis that changed in an output is that of the samples.

    Outputs that do not change with the batch (a loss, a table) count only where there are no others: such are compared
    as they are, batch by batch. Where a model cannot take two sizes, samples are taken to lie along the first axis.

    Args:
        model: run in evaluation mode without gradients, left as it was; so are the global random generators.
        source: whose first samples are used.
        asked: which outputs count, and what is known of them; or only the path of one.
        cache: runs that share it and the source, and whose models have the same fingerprint, share what was
            found.

    Raises:
        DataError: the model cannot take the data. It tells what was given, what the model said, and the usual cure.
        RecoveryError: the outputs cannot be compared, or are not there.
    """
    asked = asked if isinstance(asked, AskedOutputs) else AskedOutputs(asked)
    if cache is None:
        return _tried(model, source, asked)
    name = ("trial", model_fingerprint(model), number(source), asked)
    return cache.get(name, lambda: _tried(model, source, asked))


def tried(
    model: nn.Module, sources: Iterable[Source | None], asked: AskedOutputs, cache: Cache | None = None
) -> Outputs | None:
    """The :func:`trial` with each of these sources: what the first one found; ``None`` where there is none."""
    found = [trial(model, source, asked, cache) for source in sources if source is not None]
    return found[0] if found else None


def _tried(model: nn.Module, source: Source, asked: AskedOutputs) -> Outputs:
    given = source.first(_MANY)
    many, few = (given[torch.arange(size) % len(given)] for size in (_MANY, _FEW))
    mask = _Mask.of(model, given, asked)
    try:
        first = _run(model, many)
        second = {path: tensor.to("meta") for path, tensor in _counted(_run(model, few), asked).items()}
    except DataError as refused:
        usual = source.first(_USUAL)
        try:
            first = _run(model, usual)
        except DataError:
            raise (_of_one_size(model, source) if is_vague(refused) else None) or refused from refused.__cause__
        found = _told(_guessed(first, asked, len(usual)), first, mask, asked, usual)
        return _of_kinds(found, model, first, _without_padding(found, first, usual))
    found = _told(_found(first, second, asked), first, mask, asked, many)
    size = min(_TELLING, max(_MANY, _TELLING_VALUES // max(tensor.numel() for tensor in found.read(first, many))))
    if size > _MANY:
        with suppress(DataError, RecoveryError):
            return _of_kinds(found, model, first, _of_more(found, model, source.first(size)))
    return _of_kinds(found, model, first, _without_padding(found, first, many))


def _of_more(found: Outputs, model: nn.Module, inputs: Batch) -> list[Tensor]:
    """What counts in the outputs for these inputs, run a few at a time: for want of memory, no training takes less."""
    few = replace(found, at_most=_AT_ONCE).parts(torch.arange(len(inputs)), inputs)
    every = [_without_padding(found, _run(model, part), part) for _, part in few]
    outputs = list(zip(*every, strict=True))
    if any(not part.dim() or part.shape[1:] != parts[0].shape[1:] for parts in outputs for part in parts):
        return _without_padding(found, _run(model, inputs), inputs)
    return [torch.cat(parts) for parts in outputs]


def _of_kinds(found: Outputs, model: nn.Module, output: Any, tensors: list[Tensor]) -> Outputs:
    """The same outputs, in parts that tell one kind of thing each.

    Args:
        found: they.
        model: the teacher.
        output: what it returned.
        tensors: what counts in that, or in what it returned for more inputs, without padding.
    """
    known, asked = vocabularies_of(model), found.asked
    for one in asked.named:
        path = one.place.path
        if path and not (path == ROOT and isinstance(output, Tensor)) and resolved(output, path) is None:
            raise RecoveryError(
                f"{asked.at('kinds')}: the model's output has no tensor {path!r}; it has {described(output)}"
            )
    leaves: list[Leaf] = []
    for leaf, tensor in zip(found.leaves, map(_first, tensors), strict=True):
        said = [one for one in asked.named if one.place.covers(written(leaf.path))]
        try:
            leaves += kinds(leaf, tensor, known, said)
        except RecoveryError as error:
            raise RecoveryError(f"{asked.at('kinds')}: {error}") from None
    if not leaves:
        raise RecoveryError(f"{asked.at('kinds')}: every output is ignored: at least one has to count")
    return replace(found, leaves=tuple(leaves))


def _without_padding(found: Outputs, output: Any, inputs: Batch) -> list[Tensor]:
    """Positions ``(N, T, C)`` that are no padding, as ``(positions, 1, C)``: all axes stay where they are."""
    whole = found.read(output, inputs)
    pairs = zip(whole, found.unpadded(whole, inputs), strict=True)
    return [tensor.unsqueeze(1) if tensor.dim() < padded.dim() else tensor for padded, tensor in pairs]


def _first(tensor: Tensor) -> Tensor:
    """Of an output ``(N, T, C)`` with very many classes the first positions: enough to tell what it is."""
    if tensor.dim() != 3 or tensor.shape[2] < _VOCABULARY or tensor.numel() <= _TOLD:
        return tensor
    samples = max(1, min(len(tensor), _TOLD // tensor.shape[2]))
    return tensor[:samples, : max(1, _TOLD // (samples * tensor.shape[2]))]


def _of_one_size(model: nn.Module, source: Source) -> DataError | None:
    """What to say of a model that takes batches of another size than those that were tried; ``None``: it takes none."""
    for size in filter(None, dict.fromkeys((source.came_in, *_OTHERS))):
        given = source.first(size)
        if given.whole:
            return None
        try:
            _run(model, given[torch.arange(size) % len(given)])
        except DataError:
            continue
        return DataError(
            f"{type(model).__name__} takes batches of {size}, but not of {_FEW}, {_MANY} or {_USUAL}: give "
            f"batches that stay together, [lloydmax.extend.Batch((x,), whole=True) for x in inputs.split({size})], or "
            "let its forward take any number of samples (x.flatten(1) in place of x.view(...))"
        )
    return None


@dataclass(frozen=True)
class _Change:
    """How an output changed with the batch.

    Attributes:
        samples: the axis whose length is that of the batch, or a multiple; ``None``: there is none.
        only: nothing else changed, and the length is that of the batch.
        constant: nothing changed.
    """

    samples: int | None
    only: bool
    constant: bool


def _run(model: nn.Module, batch: Batch) -> Any:
    with seeded(0, model), evaluating(model):
        return guarded(model, lambda: ask(model, batch.to(device_of(model), channels_last=True)))


def _found(many: Any, fewer: Mapping[Path, Tensor], asked: AskedOutputs) -> dict[Path, _Change]:
    """The outputs that count, and how they changed from many samples to few, of which those that count are given."""
    tensors = _counted(many, asked)
    changes = {path: _change(tensor, fewer[path]) for path, tensor in tensors.items() if path in fewer}
    if one_each := {path: change for path, change in changes.items() if change.samples is not None}:
        return one_each
    if tensors.keys() != fewer.keys():
        raise RecoveryError(
            f"the model's output has an entry for each sample ({described(many)}): such post-processed outputs cannot "
            "be compared. Compress the part of the model that gives raw outputs, as in "
            "lloydmax.compress(model.backbone, recipe, data), wrap the model so that it returns those of its heads, or "
            "name an output by 'output'"
        )
    return changes


def _counted(output: Any, asked: AskedOutputs) -> dict[Path, Tensor]:
    try:
        return counted(output, asked.output)
    except RecoveryError as error:
        if asked.output is None:
            raise
        raise RecoveryError(f"{asked.at('output')}: {error}") from None


def _change(many: Tensor, few: Tensor) -> _Change:
    if many.dim() != few.dim():
        return _Change(None, False, False)
    changed = [axis for axis in range(many.dim()) if many.shape[axis] != few.shape[axis]]
    sizes = {axis: (many.shape[axis], few.shape[axis]) for axis in changed}
    exact = [axis for axis in changed if sizes[axis] == (_MANY, _FEW)]
    multiple = [axis for axis in changed if sizes[axis][0] * _FEW == sizes[axis][1] * _MANY]
    axis = next(iter(exact + multiple), None)
    return _Change(axis, changed == exact[:1] and bool(exact), not changed)


def _guessed(output: Any, asked: AskedOutputs, samples: int) -> dict[Path, _Change]:
    """The same where there is one output only: as many rows as samples are taken to be one each."""
    found = {}
    for path, tensor in _counted(output, asked).items():
        axis = next((axis for axis, size in enumerate(tensor.shape) if size == samples), None)
        found[path] = _Change(axis, axis is not None, axis is None)
    return {path: change for path, change in found.items() if change.samples is not None} or found


def _told(changes: dict[Path, _Change], output: Any, mask: _Mask, asked: AskedOutputs, inputs: Batch) -> Outputs:
    tensors = _counted(output, asked)
    leaves = tuple(_leaf(path, change, tensors[path], asked) for path, change in changes.items())
    if isinstance(asked.classes, int) and all(leaf.classes is None for leaf in leaves):
        shapes = ", ".join(f"{written(path)} {tuple(tensors[path].shape)}".strip() for path in changes)
        raise RecoveryError(
            f"{asked.at('classes')}: {asked.classes} is not an axis of classes in the model's output ({shapes}; "
            f"samples along axis {leaves[0].samples}): name another one, counted from 0 with that of the samples, or "
            "leave 'classes' out"
        )
    growth = sum(tensors[path].numel() for path in changes) / max(1, sum(given.numel() for given in inputs.tensors()))
    found = Outputs(leaves, all(change.only for change in changes.values()), mask.place, asked, mask.name, growth)
    found.check_mask(output, inputs)
    if any(leaf.samples is None for leaf in leaves):
        return found
    return replace(found, places=min(map(places_in, found.read(output, inputs))))


def _leaf(path: Path, change: _Change, tensor: Tensor, asked: AskedOutputs) -> Leaf:
    classes = asked.classes
    if tensor.is_complex():
        classes = None
    elif isinstance(classes, int):
        place = classes + tensor.dim() if classes < 0 else classes
        classes = place if 0 <= place < tensor.dim() and place != change.samples else None
    return Leaf(path, change.samples, classes, tensor.dim())


@dataclass(frozen=True)
class _Mask:
    """Where in the inputs the mask of the outputs is: its name, or its position; and what it is called."""

    place: str | int | None = None
    name: str = ""

    @classmethod
    def of(cls, model: nn.Module, batch: Batch, asked: AskedOutputs) -> _Mask:
        if asked.mask is None:
            return cls()
        try:
            places = list(inspect.signature(model.forward).parameters)
        except (TypeError, ValueError):
            places = []
        given = {*batch.kwargs, *places[: len(batch.args)]}
        name: str | None = asked.mask
        if name == "auto":
            usual = (*DECODER_MASKS, DECODER_REAL) if DECODER_INPUT in given else (*MASKS, REAL)
            name = next((one for one in usual if one in given or one in batch.beside), None)
            if name is None:
                return cls()
        elif name not in given:
            names = ", ".join(sorted(given)) or "unnamed ones"
            raise RecoveryError(f"{asked.at('mask')}: {name!r} is not an input of the model; the data has {names}")
        return cls(places.index(name), name) if name in places[: len(batch.args)] else cls(name, name)
