"""The conversion of a fake-quantized graph to int8 kernels, and the way back from a file to them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import spacing
from lloydmax.errors import CheckpointError
from lloydmax.network.folding import folded
from lloydmax.network.parameters import demote
from lloydmax.runtime.quiet import quiet
from lloydmax.runtime.seeding import OwnGenerator
from lloydmax.student.int8.backend import backend_config
from lloydmax.student.int8.graph import activation_thresholds, fake_quantized, fake_quantizer, hold
from lloydmax.student.int8.host import convert, forget_models
from lloydmax.student.int8.model import Int8Model
from lloydmax.student.int8.qconfigs import QuantizedWeight, levels_of
from lloydmax.student.thresholds import Scheme


def converted(graph: torch.fx.GraphModule, weights: Mapping[str, QuantizedWeight], skeleton: nn.Module) -> Int8Model:
    """The trained graph on int8 kernels, on the CPU, where they are.

    Args:
        graph: from :func:`~lloydmax.student.int8.graph.fake_quantized`; left unusable.
        weights: the same.
        skeleton: the folded float model; only its names, and tensors that the graph does not use, are kept.
    """
    activations = []
    for threshold in activation_thresholds(graph):
        scale, zero = threshold.calculate_qparams()
        activations.append((float(scale), int(zero)))
    names = [*dict(skeleton.named_parameters(remove_duplicate=False)), *_persistent(skeleton)]
    used_up = [*graph.modules(), *skeleton.modules()]
    try:
        with OwnGenerator(), quiet(bars=False):
            kernels = convert(graph.cpu().eval(), backend_config=backend_config())
    finally:
        forget_models()
    demote(kernels)
    known = dict(kernels.named_modules())
    tensors: dict[str, Tensor] = dict(skeleton.named_buffers(remove_duplicate=False))
    tensors |= dict(skeleton.named_parameters(remove_duplicate=False))
    unused = {name: tensors[name].detach().cpu() for name in names if not _is_in(known, name)}
    levels = {name: levels_of(weight) for name, weight in weights.items() if weight.even}
    found = Int8Model(kernels, names, levels, activations, folded(skeleton), unused).eval()
    _emptied(used_up, found)
    _freed(kernels)
    return found


def _is_in(modules: Mapping[str, nn.Module], name: str) -> bool:
    """Whether a tensor of the float architecture is somewhere in the modules on kernels."""
    layer, _, leaf = name.rpartition(".")
    module = modules.get(layer)
    if module is None:
        return False
    return isinstance(module, nn.Sequential) or hasattr(module, "codebooks") or hasattr(module, leaf)


def _emptied(used_up: Sequence[nn.Module], kept: nn.Module) -> None:
    """Let go of the tensors of modules that are used up: the host's references to them are circular, so that the memory
    of one model after another would wait for the garbage collector."""
    held = {id(module) for module in kept.modules()}
    for module in used_up:
        if id(module) not in held:
            vars(module).pop("qconfig", None)
            for part in (module._parameters, module._buffers, module._modules):
                part.clear()


def _freed(kernels: torch.fx.GraphModule) -> None:
    """Part the modules on kernels from those that the host made on the way to them, and from circular references of
    their own: they are gone as soon as nobody holds them."""
    held = {id(module._modules) for module in kernels.modules()}
    made = [child for module in kernels.modules() for child in module._modules.values()]
    for holder in gc.get_referrers(*made):
        if isinstance(holder, dict) and id(holder) not in held:
            holder.clear()
    kernels.graph.owning_module = None


def restored(
    model: nn.Module,
    weights: Mapping[str, QuantizedWeight],
    codebooks: Mapping[str, Codebook],
    activations: Sequence[tuple[float, int]],
    bits: Literal[8],
    scheme: Scheme,
) -> Int8Model:
    """The int8 model that a file describes, from the float architecture with its decoded weights.

    Args:
        model: batch norms folded; left unusable.
        weights: what is quantized, by name.
        codebooks: of all of them.
        activations: scale and zero point of every quantized activation, in the order of the graph.
        bits: of the activations.
        scheme: of the activations.

    Raises:
        CheckpointError: this version of PyTorch quantizes other activations than the one that wrote the file.
    """
    graph = fake_quantized(model, weights, bits, scheme)
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
    return converted(graph, weights, model)


def _persistent(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        for leaf, buffer in module._buffers.items():
            if buffer is not None and leaf not in module._non_persistent_buffers_set:
                yield f"{prefix}.{leaf}".lstrip(".")
