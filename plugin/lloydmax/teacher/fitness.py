"""Which of several sets of unlabelled inputs suits a teacher, told without labels and without training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lloydmax.data import Source
from lloydmax.data.opening import unlabelled
from lloydmax.data.randomness import random_order
from lloydmax.errors import DataError
from lloydmax.network.batch_norm import Moments, bhattacharyya, listening
from lloydmax.network.outputs import AskedOutputs, Auto, Outputs, comparable
from lloydmax.network.private import private
from lloydmax.runtime.modes import device_of, evaluating, own_modes
from lloydmax.runtime.seeding import seeded
from lloydmax.teacher.finite import OddOutputs
from lloydmax.teacher.trial import trial

_BATCH = 64
"""Samples of one forward pass."""


@dataclass(frozen=True)
class Fitness:
    """How a set of inputs looks to a teacher.

    Attributes:
        name: of the set.
        samples: inputs that were looked at.
        distance: between the Gaussians of the statistics that the teacher's batch norms keep and of those that the
            inputs give (Bhattacharyya), the mean over channels, then over layers; 0: the same. ``None``: the teacher
            has no batch norm.
        layers: the same of each batch norm, by name, in forward order.
        class_use: entropy of the teacher's top-1 decisions, as a share of the most that there can be: 0: always the
            same class, 1: all classes equally often; ``None``: the teacher has no classes.
        confidence: the teacher's largest probability, the mean over decisions; ``None`` likewise.
        variety: how much the outputs differ from input to input: their deviation over their root mean square, the mean
            over the outputs that count; ``None``: their shapes differ, too.
    """

    name: str
    samples: int
    distance: float | None
    layers: dict[str, float]
    class_use: float | None
    confidence: float | None
    variety: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def data_fitness(
    model: nn.Module,
    data: Mapping[str, Any],
    samples: int = 1000,
    seed: int = 0,
    output: str | int | None = None,
    classes: int | Auto | None = "auto",
    kinds: Any = None,
    tokenizer: Any = None,
) -> list[Fitness]:
    """Rank sets of unlabelled inputs by how well they suit a teacher, for recovery without labels.

    Args:
        model: the trained teacher; run in evaluation mode, left as it was.
        data: sets by name, each anything that :func:`lloydmax.compress` takes.
        samples: inputs of each set to look at, drawn with ``seed``.
        seed: of the draw.
        output: path of the output whose classes count, as a recipe's ``output``; default: the first with classes.
        classes: axis of its classes, as a recipe's ``classes``.
        kinds: what outputs tell, as a recipe's ``kinds``.
        tokenizer: for sets of texts, see :func:`lloydmax.compress`.

    Returns:
        Best first: by the distance of batch-norm statistics; where the model has no batch norm with running statistics,
        by the use of classes; where it has no classes either, by the variety of the outputs.

    Raises:
        DataError: no sets, or one that cannot be read or does not fit the model.
    """
    if not isinstance(data, Mapping):
        raise DataError(
            f"data_fitness takes sets of inputs by name, not of type {type(data).__name__}: pass {{name: data}}"
        )
    if not data:
        raise DataError("data_fitness needs at least one set of inputs: pass {name: data, ...}")
    asked = AskedOutputs(output, classes, kinds=kinds)
    model = private(model)
    with own_modes(), seeded(seed, model):
        found = [_measure(model, name, given, samples, seed, asked, tokenizer) for name, given in data.items()]
    return sorted(found, key=_rank)


def _rank(fitness: Fitness) -> tuple[float, float, float]:
    distance = math.inf if fitness.distance is None else fitness.distance
    return distance, -(fitness.class_use or 0.0), -(fitness.variety or 0.0)


def _measure(
    model: nn.Module, name: str, data: Any, samples: int, seed: int, asked: AskedOutputs, tokenizer: Any
) -> Fitness:
    try:
        source = unlabelled(data, model, seed=seed, tokenizer=tokenizer)
        outputs = trial(model, source, asked)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    source.left_out.restart()
    order = random_order(len(source), samples, seed).sort().values
    odd = OddOutputs(order, len(source), outputs)
    found = _looked_at(model, name, source, order, outputs, odd)
    if strange := odd.found(device_of(model)):
        source.leave_out(strange, len(order))
        found = _looked_at(model, name, source, order, outputs, odd)
    return found


def _looked_at(
    model: nn.Module, name: str, source: Source, order: Tensor, outputs: Outputs, odd: OddOutputs
) -> Fitness:
    device = device_of(model)
    seen: dict[str, tuple[_BatchNorm, Moments]] = {}
    decisions, variety = _Decisions(outputs), _Variety()

    def hear(name: str, norm: _BatchNorm, inputs: Tensor) -> None:
        seen.setdefault(name, (norm, Moments()))[1].add(inputs)

    with evaluating(model), listening(model, hear):
        for indices, batch in source.batches(_BATCH, order):
            inputs = batch.to(device, channels_last=True)
            given = inputs.run(model)
            odd.add(indices, outputs.read(given, inputs), inputs)
            decisions.add(found := outputs.of(given, inputs))
            variety.add(found if outputs.mask is None else [_at_positions(tensor) for tensor in found])
    layers = {name: _distance(norm, moments) for name, (norm, moments) in seen.items()}
    return Fitness(
        name=name,
        samples=len(order),
        distance=sum(layers.values()) / len(layers) if layers else None,
        layers=layers,
        class_use=decisions.use(),
        confidence=decisions.confidence(),
        variety=variety.found(),
    )


def _distance(norm: _BatchNorm, moments: Moments) -> float:
    assert norm.running_mean is not None and norm.running_var is not None
    mean, variance = moments.mean_and_variance()
    kept = norm.running_mean.double(), norm.running_var.double() + norm.eps
    return float(bhattacharyya(mean, variance + norm.eps, *kept).mean())


class _Decisions:
    """The teacher's top-1 decisions, counted, and its largest probabilities, added up."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        self.counts: Tensor | None = None
        self.sure = 0.0

    def add(self, tensors: list[Tensor]) -> None:
        if (found := self.outputs.scores(tensors)) is None:
            return
        place, axis = found
        scores = self.outputs.leaves[place].logits(tensors[place])
        largest, chosen = scores.softmax(axis).max(axis)
        counts = torch.bincount(chosen.flatten().cpu(), minlength=scores.shape[axis])
        self.counts = counts if self.counts is None else self.counts + counts
        self.sure += float(largest.double().sum())

    def use(self) -> float | None:
        if self.counts is None:
            return None
        shares = self.counts.double() / self.counts.sum()
        return float(-torch.special.xlogy(shares, shares).sum()) / math.log(len(shares))

    def confidence(self) -> float | None:
        return None if self.counts is None else self.sure / int(self.counts.sum())


def _at_positions(tensor: Tensor) -> Tensor:
    """Outputs ``(N, T, C)`` as those without padding are: ``(positions, C)``."""
    return tensor.flatten(0, 1) if tensor.dim() == 3 else tensor


class _Variety:
    """Sums of every number in the outputs, and of their squares, over the inputs, or over positions of sequences."""

    def __init__(self) -> None:
        self.sums: list[Tensor] | None = None
        self.squares: list[Tensor] = []
        self.counts: list[int] = []
        self.fits = True

    def add(self, tensors: list[Tensor]) -> None:
        values = [comparable(tensor, tensor)[0].double() for tensor in tensors]
        sums, squares = [value.sum(0) for value in values], [value.square().sum(0) for value in values]
        counts = [len(value) for value in values]
        if self.sums is not None:
            self.fits &= [one.shape for one in sums] == [one.shape for one in self.sums]
            if not self.fits:
                return
            sums = [one + more for one, more in zip(sums, self.sums, strict=True)]
            squares = [one + more for one, more in zip(squares, self.squares, strict=True)]
            counts = [one + more for one, more in zip(counts, self.counts, strict=True)]
        self.sums, self.squares, self.counts = sums, squares, counts

    def found(self) -> float | None:
        if self.sums is None or not self.fits:
            return None
        shares = [
            1 - float(one.square().sum()) / count / max(float(square.sum()), 1e-300)
            for one, square, count in zip(self.sums, self.squares, self.counts, strict=True)
        ]
        return sum(math.sqrt(max(0.0, share)) for share in shares) / len(shares)
