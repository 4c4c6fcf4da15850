"""Where the first stage of a network ends: found from one forward pass, for any architecture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from lloydmax import RecoveryError
from lloydmax.extend import Batch, Source, device_of, evaluating, spelling_hint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LAYERS = (_ConvNd, nn.Linear, nn.RNNBase, nn.Embedding, nn.MultiheadAttention)
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_FEW = 2
"""Alike blocks that make a list."""


@dataclass(frozen=True, eq=False)
class Call:
    """The first call of a module in a forward pass.

    Attributes:
        name: of the module.
        module: called.
        start: position of its beginning among all beginnings and ends.
        end: position of its end.
        shape: of the (first floating) tensor that it gave; ``()``: none.
    """

    name: str
    module: nn.Module
    start: int
    end: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Positions of a map ``(N, C, *)``."""
        return math.prod(self.shape[2:])


def first_tensor(output: Any) -> Tensor:
    """The first floating tensor in what a module gave; an empty one where there is none."""
    floating = (tensor for tensor in Batch((output,)).tensors() if tensor.is_floating_point())
    return next(floating, torch.empty(()))


def record(model: nn.Module, source: Source) -> list[Call]:
    """The modules that a forward pass of two samples calls, by the end of their first call (without the root)."""
    clock = iter(range(2**62))
    begun: dict[str, int] = {}
    calls: dict[str, Call] = {}
    with ExitStack() as stack, evaluating(model):
        for name, module in model.named_modules():
            if not name or "parametrizations" in name.split("."):
                continue

            def begin(_: nn.Module, __: Any, name: str = name) -> None:
                begun.setdefault(name, next(clock))

            def finish(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
                shape = tuple(first_tensor(output).shape)
                calls.setdefault(name, Call(name, module, begun[name], next(clock), shape))

            stack.callback(module.register_forward_pre_hook(begin).remove)
            stack.callback(module.register_forward_hook(finish).remove)
        source.first(2).to(device_of(model)).run(model)
    return list(calls.values())


def first_stage(model: nn.Module, calls: list[Call]) -> str:
    """The name of the module whose output ends the first stage.

    1. Where the maps shrink: the stage is the first map size that convolutions give, or the second where the first
       comes from a single one, a stem (VGG-16: before the first pooling; ResNet: ``layer1``; MobileNet-v2:
       ``features.1``); its end is the last module that still gives this size and does not lie inside a block that
       reaches into the next stage.
    2. Else, where a list of alike blocks is called (transformers): the first quarter of them.
    3. Else the first quarter of the layers with weights, with the normalization and activation modules after it.

    Raises:
        RecoveryError: no module with weights is called.
    """
    found = _before_shrinking(calls) or _first_blocks(model, calls) or _first_layers(calls)
    if found is None:
        raise RecoveryError(f"no first stage was found in {type(model).__name__}: name a module by 'layer'")
    return found


def find(model: nn.Module, calls: list[Call], layer: str | None) -> Call:
    """The call of module ``layer``, by default of the end of the first stage.

    Raises:
        RecoveryError: there is no such module, it is never called, or it gives no floating features.
    """
    name = first_stage(model, calls) if layer is None else layer
    called = {call.name: call for call in calls}
    if name not in called:
        names = [name for name, _ in model.named_modules() if name]
        reason = "is never called" if name in names else f"does not exist{spelling_hint(name, list(called))[:300]}"
        raise RecoveryError(f"layer {name!r} {reason}")
    if not 2 <= len(called[name].shape) <= 5:
        raise RecoveryError(
            f"layer {name!r} gives features of shape {called[name].shape}; (N, C), (N, T, C) or (N, C, ...) is needed"
        )
    return called[name]


def channel_axis(calls: list[Call], tap: Call) -> int:
    """The axis of the channels in the features of ``tap``: that of the last layer before their end."""
    layers = [call for call in calls if call.end <= tap.end and isinstance(call.module, (*_LAYERS, *_NORMS))]
    if not layers:
        return 1
    last = max(layers, key=lambda call: call.end).module
    if isinstance(last, (nn.Linear, nn.Embedding, nn.LayerNorm)):
        width = last.weight.shape[-1] if isinstance(last, nn.Embedding) else last.weight.shape[0]
        return len(tap.shape) - 1 if tap.shape[-1] == width else 1
    return 1 if isinstance(last, (_ConvNd, *_NORMS)) else len(tap.shape) - 1


def _before_shrinking(calls: list[Call]) -> str | None:
    convolutions = sorted(_maps(calls), key=lambda call: call.start)
    runs = [(size, list(run)) for size, run in groupby(convolutions, key=lambda call: call.size)]
    for position, (size, run) in enumerate(runs[:2]):
        if position == 0 and len(run) == 1:
            continue
        later = [first for smaller, (first, *_) in runs[position + 1 :] if smaller < size]
        if not later:
            return None
        begin, cut = run[0].start, later[0].start
        crossing = [
            call
            for call in calls
            if begin < call.start < cut < call.end
            and not (isinstance(call.module, nn.Sequential) and any(c.name.startswith(f"{call.name}.") for c in run))
        ]
        inside = [
            call
            for call in calls
            if begin < call.end < cut
            and len(call.shape) == len(run[0].shape)
            and call.size == size
            and not any(block.start < call.start for block in crossing)
        ]
        return max(inside, key=lambda call: call.end).name if inside else None
    return None


def _maps(calls: list[Call]) -> Iterator[Call]:
    """Convolutions on maps of more than one position (gates of squeeze-and-excitation have one)."""
    return (call for call in calls if isinstance(call.module, _CONVOLUTIONS) and call.size > 1)


def _first_blocks(model: nn.Module, calls: list[Call]) -> str | None:
    called = {call.name for call in calls}
    for name, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            blocks = [f"{name}.{child}".lstrip(".") for child, _ in module.named_children()]
            alike = {type(child) for child in module} if len(blocks) >= _FEW else set()
            compound = all(any(child.children()) for child in module)
            if len(alike) == 1 and compound and called.issuperset(blocks):
                return blocks[math.ceil(len(blocks) / 4) - 1]
    return None


def _first_layers(calls: list[Call]) -> str | None:
    layers = sorted((c for c in calls if isinstance(c.module, _LAYERS) and c.shape), key=lambda call: call.start)
    if not layers:
        return None
    number = math.ceil(len(layers) / 4)
    layer = layers[number - 1]
    limit = layers[number].start if number < len(layers) else math.inf
    following = [c for c in calls if layer.end <= c.end < limit and len(c.shape) == len(layer.shape)]
    return max(following, key=lambda call: call.end).name
