"""Which weights of a student can be reconstructed, by the module whose forward method multiplies by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from lloydmax.extend import Channels, Layout, attached, multiplied
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lloydmax_strategies.matching.preactivations import stages
from lloydmax_strategies.reconstruction.target import Target


@dataclass
class Targets:
    """The weights that one module multiplies by.

    Attributes:
        by_leaf: by their names in the module that holds them.
        staged: whether they are reconstructed stage by stage, see
            :func:`~lloydmax_strategies.matching.preactivations.stages`.
        embeddings: that are tied to the weight of a linear layer.
    """

    by_leaf: dict[str, Target] = field(default_factory=dict)
    staged: bool = False
    embeddings: list[nn.Module] = field(default_factory=list)


def is_plain(module: nn.Module) -> bool:
    """Whether it is a convolution or a linear layer."""
    return isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(module, _ConvTransposeNd)


def targets_of(student: nn.Module, original: nn.Module | None, bias: bool) -> dict[nn.Module, Targets]:
    """The weights that can be done, with what to come close to.

    Args:
        student: in training.
        original: as it was before; ``None``: only its host knows it, and decoded weights stand for the original ones.
        bias: whether biases in floats take the mean errors.
    """
    weights: Mapping[str, Tensor] = {} if original is None else dict(original.named_parameters(remove_duplicate=False))
    foreign = {} if original is None else multiplied(original)
    places = list(attached(student))
    tied: dict[int, list[nn.Module]] = {}
    for place in places:
        tied.setdefault(id(place.weight), []).append(place.module)
    modules = dict(student.named_modules())
    found: dict[nn.Module, Targets] = {}
    for name, module, leaf, holder, centroids in places:
        shape, others = holder.layout.shape, [one for one in tied[id(holder)] if one is not module]
        embeddings = [one for one in others if isinstance(one, nn.Embedding)]
        if holder.layout.block > 1 or len(embeddings) < len(others) or (others and not isinstance(module, nn.Linear)):
            continue
        user, order, groups, staged = module, Layout(shape, 2), 1, False
        if is_plain(module):
            if leaf != "weight":
                continue
            groups = len(Channels(module).by_group(holder.codes))
        elif _is_gated(module, leaf):
            staged = True
        elif name in foreign:
            called, along = foreign[name]
            user, groups = modules[called], along.matrices
            order = Layout(shape, 2, axis=along.axis, matrices=along.stacked)
        else:
            continue
        if holder.layout.run is not None:
            continue  # grids of runs stay as they are
        if holder.layout.channels is not None and holder.layout.channel_axes != order.channel_axes:
            continue
        kept = weights.get(name)
        fits = kept is not None and tuple(kept.shape) == shape
        weight = kept if kept is not None and fits else holder.holding(centroids).dequantize()
        weight = weight.detach().to(centroids.device, torch.float32)
        held = module._parameters.get(leaf.replace("weight", "bias")) if bias and "weight" in leaf else None
        held = held if held is not None and held.numel() == order.outputs else None
        target = Target(name, holder, centroids, weight, order, centroids.requires_grad, held, groups)
        targets = found.setdefault(user, Targets())
        targets.by_leaf[leaf if user is module else name], targets.staged = target, staged
        targets.embeddings += embeddings
    return found


def _is_gated(module: nn.Module, leaf: str) -> bool:
    if isinstance(module, _ConvNd):
        return False
    return any(leaf in one.weights for stage in stages(module) for one in stage.sums)
