"""What is done with the fake-quantized graph of any host: observe ranges, hold codebooks, train, restore."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import spacing
from lloydmax.data import Source, random_order
from lloydmax.errors import CheckpointError
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.student.int8.hosts import HostName, host
from lloydmax.student.int8.model import Int8Model
from lloydmax.student.int8.weights import QuantizedWeight, levels_of
from lloydmax.student.thresholds import Scheme, TrainedThreshold

_BATCH = 32
"""Calibration samples of one forward pass."""


def calibrate(
    graph: nn.Module,
    source: Source,
    samples: int,
    seed: int,
    tell: Callable[[int, int, dict[str, float]], None],
) -> None:
    """Observe the ranges of weights and activations on a few inputs; they stay from then on.

    Args:
        graph: from a host, its codebooks held.
        source: unlabelled inputs.
        samples: how many of them, drawn with ``seed``.
        seed: of the choice.
        tell: gets the samples done, all of them, and ``{"widened": share of the ranges of activations that the last
            batch added to them, the mean over activations; "activations": their number}``.
    """
    order = random_order(len(source), samples, seed)
    activations = activation_thresholds(graph)
    done, ranges = 0, torch.zeros(len(activations))
    with evaluating(graph):
        for indices, batch in source.batches(_BATCH, order):
            batch.to(device_of(graph)).run(graph)
            done, before, ranges = done + len(indices), ranges, _ranges(activations)
            widened = ((ranges - before) / ranges.clamp(min=1e-30)).mean()
            tell(done, len(order), {"widened": float(widened), "activations": float(len(activations))})
    for threshold in _thresholds(graph).values():
        threshold.observer_enabled[0] = 0


def set_trainable(graph: nn.Module, weights: Mapping[str, QuantizedWeight], names: Collection[str]) -> None:
    """Make these parameters trainable, and no others: of quantized ones the centroids or the factors of thresholds."""
    for parameter in graph.parameters():
        parameter.requires_grad_(False)
    plain = dict(graph.named_parameters())
    for name in names:
        if (weight := weights.get(name)) is not None:
            quantizer = fake_quantizer(graph, name)
            for parameter in quantizer.factors() if weight.even else [quantizer.centroids]:
                parameter.requires_grad_(True)
        elif name in plain:
            plain[name].requires_grad_(True)


def hold(graph: nn.Module, weights: Mapping[str, QuantizedWeight], codebooks: Mapping[str, Codebook]) -> None:
    """Give the fake quantizers of weights with free centroids their codebooks."""
    for name, codebook in codebooks.items():
        if not weights[name].even:
            fake_quantizer(graph, name).hold(codebook)


def restored(
    model: nn.Module,
    weights: Mapping[str, QuantizedWeight],
    codebooks: Mapping[str, Codebook],
    activations: Sequence[tuple[float, int]],
    bits: Literal[8],
    scheme: Scheme,
    by: HostName,
) -> Int8Model:
    """The int8 model that a file describes, from the float architecture with its decoded weights.

    Args:
        model: batch norms folded; left unusable.
        weights: what is quantized, by name.
        codebooks: of all of them.
        activations: scale and zero point of every quantized activation, in the order of the graph.
        bits: of the activations.
        scheme: of the activations.
        by: the host.

    Raises:
        CheckpointError: other activations are quantized here than where the file was written.
    """
    chosen = host(by)
    graph = chosen.fake_quantized(model, weights, bits, scheme)
    points = activation_thresholds(graph)
    if len(points) != len(activations):
        raise CheckpointError(
            f"holds {len(activations)} quantized activations, this model has {len(points)} with torch "
            f"{torch.__version__}: load it with the version of torch that wrote it"
        )
    for threshold, (scale, zero) in zip(points, activations, strict=True):
        threshold.fix(torch.tensor([scale]), torch.tensor([zero], dtype=torch.int32))
    hold(graph, weights, codebooks)
    for name, codebook in codebooks.items():
        if not weights[name].even:
            continue
        _, low = levels_of(weights[name])
        rows = spacing(codebook)
        if rows is None:
            raise CheckpointError(f"the codebook of {name!r} is not evenly spaced")
        fake_quantizer(graph, name).fix(rows[:, 0].contiguous(), rows[:, 1].to(torch.int32) + low)
    return chosen.converted(graph, weights, model)


def fake_quantizer(graph: nn.Module, name: str) -> Any:
    """The fake quantizer of a weight."""
    module: Any = graph.get_submodule(name.rpartition(".")[0])
    return module.weight_fake_quant


def activation_thresholds(graph: nn.Module) -> list[Any]:
    """The trained thresholds of activations, in the order of the graph."""
    return [threshold for name, threshold in _thresholds(graph).items() if not name.endswith("weight_fake_quant")]


def activation_points(graph: nn.Module) -> list[tuple[float, int]]:
    """Scale and zero point of each of :func:`activation_thresholds`.

    Raises:
        IntegrationError: one has observed nothing, or NaN or infinite values.
    """
    found = [threshold.calculate_qparams() for threshold in activation_thresholds(graph)]
    return [(float(scale), int(zero)) for scale, zero in found]


def _thresholds(graph: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in graph.named_modules() if isinstance(module, TrainedThreshold)}


def _ranges(thresholds: Sequence[Any]) -> Tensor:
    """Widths of the observed ranges, on the CPU; 0 where nothing was observed."""
    return torch.tensor([float(t.max_val[0] - t.min_val[0]) if t.min_val.numel() else 0.0 for t in thresholds])
