"""The fake-quantized graph: the int8 student while it is trained, in FX graph mode of ``torch.ao.quantization``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.data import Source, random_order
from lloydmax.errors import IntegrationError
from lloydmax.network.tracing import traced
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.runtime.quiet import quiet
from lloydmax.runtime.seeding import OwnGenerator, undrawn
from lloydmax.student.int8.backend import backend_config
from lloydmax.student.int8.host import (
    FuseCustomConfig,
    QConfigMapping,
    QuantizationTracer,
    forget_models,
    fuse,
    prepare,
    swap_functional,
)
from lloydmax.student.int8.qconfigs import (
    UNIFORM,
    QuantizedWeight,
    held_qconfig,
    refusal,
    threshold_activation,
    threshold_qconfig_mapping,
    uniform_qconfig,
    untrainable,
)
from lloydmax.student.thresholds import Scheme, TrainedThreshold

_BATCH = 32
"""Calibration samples of one forward pass."""


def refuse(weights: Mapping[str, QuantizedWeight]) -> None:
    """Refuse weights that no graph can hold as the recipe says.

    Raises:
        IntegrationError: it names each of them, with the reason.
    """
    told = {name: refusal(weight) or untrainable(weight) for name, weight in weights.items()}
    _refused([f"{name}: {reason}" for name, reason in told.items() if reason])


def _refused(problems: Sequence[str]) -> None:
    if problems:
        raise IntegrationError("torch.ao.quantization cannot do what the recipe says: " + "; ".join(problems))


def fake_quantized(
    model: nn.Module, weights: Mapping[str, QuantizedWeight], bits: Literal[8], scheme: Scheme
) -> fx.GraphModule:
    """The model as a graph with fake quantizers of weights and activations in it, in evaluation mode.

    Args:
        model: batch norms folded; its modules move into the graph.
        weights: what is quantized, by name; what shares a layer with none of them stays float.
        bits: of the activations.
        scheme: of the activations.

    Raises:
        IntegrationError: the model cannot be traced, or the host cannot quantize a weight so.
    """
    refuse(weights)
    _refused(
        [
            f"{name} has hooks, or a forward of its own, which int8 layers do not keep: remove them, or leave it out"
            for name in dict.fromkeys(name.rpartition(".")[0] for name in weights)
            if _is_changed(model.get_submodule(name))
        ]
    )
    uniform = any(weight.quantizer == UNIFORM for weight in weights.values())
    if (
        uniform
        and torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    ):
        raise IntegrationError(
            "int8 kernels of PyTorch refuse to run under torch.use_deterministic_algorithms(True): turn it off (the "
            "results are the same), or leave out 'activations:'"
        )
    mapping = threshold_qconfig_mapping(activation_bits=bits, activation_scheme=scheme)
    planned = {name.rpartition(".")[0] for name in weights}
    for name, module in model.named_modules():
        if module._parameters and name not in planned:
            mapping.set_module_name(name, None)
    activation = threshold_activation(bits, scheme)
    for weight in weights.values():
        layer = weight.name.rpartition(".")[0]
        uniform = weight.quantizer == UNIFORM
        made = (
            uniform_qconfig(weight, activation, model.get_submodule(layer))
            if uniform
            else held_qconfig(weight, activation)
        )
        mapping.set_module_name(layer, made)
    try:
        graph = _prepared(model.train(), mapping)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise IntegrationError(
            f"{type(model).__name__} cannot be traced for int8 activations: {reason}. Leave out 'activations:', or "
            "write its forward without control flow that depends on tensors"
        ) from error
    return graph.eval()


def _is_changed(layer: nn.Module) -> bool:
    """Whether a layer does something else than its class says."""
    return "forward" in vars(layer) or bool(layer._forward_hooks or layer._forward_pre_hooks)


def _prepared(model: nn.Module, mapping: QConfigMapping) -> fx.GraphModule:
    """What ``prepare_qat_fx`` gives, traced so that no other thread notices."""
    tracer, backend = QuantizationTracer([], []), backend_config()
    swap_functional(model)
    graph = fx.GraphModule(model, undrawn(partial(traced, tracer, model)))
    try:
        with OwnGenerator(), quiet(bars=False):
            fused = fuse(graph, True, FuseCustomConfig(), backend)
            return prepare(fused, mapping, True, tracer.node_name_to_scope, (), backend_config=backend)
    finally:
        forget_models()


def calibrate(
    graph: nn.Module,
    source: Source,
    samples: int,
    seed: int,
    tell: Callable[[int, int, dict[str, float]], None],
) -> None:
    """Observe the ranges of weights and activations on a few inputs; they stay from then on.

    Args:
        graph: from :func:`fake_quantized`, its codebooks held.
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


def fake_quantizer(graph: nn.Module, name: str) -> Any:
    """The fake quantizer of a weight."""
    module: Any = graph.get_submodule(name.rpartition(".")[0])
    return module.weight_fake_quant


def activation_thresholds(graph: nn.Module) -> list[Any]:
    """The trained thresholds of activations, in the order of the graph."""
    return [threshold for name, threshold in _thresholds(graph).items() if not name.endswith("weight_fake_quant")]


def _thresholds(graph: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in graph.named_modules() if isinstance(module, TrainedThreshold)}


def _ranges(thresholds: Sequence[Any]) -> Tensor:
    """Widths of the observed ranges, on the CPU; 0 where nothing was observed."""
    return torch.tensor([float(t.max_val[0] - t.min_val[0]) if t.min_val.numel() else 0.0 for t in thresholds])
