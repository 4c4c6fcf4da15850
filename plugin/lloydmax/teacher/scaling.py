"""How large the values of made inputs are: as the first batch norm, examples or the first layer tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lloydmax.data.batch import Batch
from lloydmax.data.inputs import Inputs
from lloydmax.data.natural import Form
from lloydmax.network.batch_norm import listening, statistics_gap, tracked
from lloydmax.network.guard import guarded
from lloydmax.runtime.modes import device_of, evaluation_mode

_FEW = 8
"""Samples by which the scale is found."""
_SCALES = ((0.0, 1.0), (0.0, 0.5), (0.0, 0.1), (0.0, 4.0), (0.5, 0.25), (127.0, 64.0))
"""Means and deviations that are tried on the first batch norm."""
_STEPS, _RATE = 40, 0.07
_MIXED = 4
"""Channels that are mixed at most: those of pictures are much alike."""
_BRIGHT, _SPREAD = 0.5, 0.25
"""Mean and deviation of values from 0 to 1."""
_BYTES, _LARGE, _NORMAL = 255.0, 16.0, 2.0
"""Range of pictures whose first layer asks for such a deviation; what normalized ones have at most."""
_GOLDEN = 0.618
"""Step through loudness: any few samples in a row have all of it."""
_USUAL = 0.5
"""Deviation of what the first layer of a trained network makes of its inputs, without its bias."""

Call = Callable[[Tensor], Batch]


def scaled(model: nn.Module, form: Form, raw: Tensor, call: Call, alone: bool) -> Tensor:
    """Values of a size that the model knows.

    Args:
        model: the teacher.
        form: of the input.
        raw: mean 0, deviation 1 in each channel.
        call: gives the arguments with a few values in place of this input.
        alone: whether there is no other input of real numbers.
    """
    if alone and tracked(model) and (found := _by_norm(model, form, raw, call)) is not None:
        return found
    if form.mean is not None and form.deviation is not None:
        made = raw * form.deviation + form.mean
        if not form.pictures and form.mean > form.deviation / 10:
            made[1::2] = _of_others(raw, form.deviation)[1::2]
        return made
    wanted = _by_first_layer(model, raw, call) if alone else 1.0
    return _of_pictures(raw, wanted) if form.pictures else _of_others(raw, wanted)


def _of_pictures(raw: Tensor, wanted: float) -> Tensor:
    """From 0 to 255 where such a deviation is wanted; else half of them normalized, and half from 0 to 1."""
    if _NORMAL < wanted < _LARGE:
        return _of_others(raw, wanted)
    bright = (_BRIGHT + _SPREAD * raw).clamp(0, 1)
    if wanted >= _LARGE:
        return bright * _BYTES
    made = raw.clone()
    made[1::2] = bright[1::2]
    return made


def _of_others(raw: Tensor, wanted: float) -> Tensor:
    """Of about this deviation, half to twice as loud; half of them positive and with a long tail, as powers are."""
    made = raw.clone()
    powers = raw[1::2].exp()
    made[1::2] = powers / powers.std(correction=0).clamp(min=1e-12) if len(powers) else powers
    loud = 2 ** (2 * (_GOLDEN * torch.arange(len(raw)) % 1) - 1)
    return made * wanted * loud.reshape(-1, *(1,) * (raw.dim() - 1))


def _by_first_layer(model: nn.Module, raw: Tensor, call: Call) -> float:
    """The deviation at which what the first layer makes of its inputs has the usual one; 1 where none is reached."""
    heard: list[float] = []

    def look(module: Any, args: Any, output: Any) -> None:
        if isinstance(module, nn.RNNBase):
            made = args[0] @ module.weight_ih_l0.T
        else:
            axes = (-1,) if isinstance(module, nn.Linear) else (-1, *(1,) * (output.dim() - 2))
            made = output if module.bias is None else output - module.bias.reshape(axes)
        heard.append(float(made.float().std()))
        raise Reached

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, (nn.Linear, _ConvNd, nn.RNNBase)):
                stack.callback(module.register_forward_hook(look).remove)
        with torch.no_grad():
            _run(model, call(raw[:_FEW]))
    return _USUAL / heard[0] if heard and math.isfinite(heard[0]) and heard[0] > 0 else 1.0


def _by_norm(model: nn.Module, form: Form, raw: Tensor, call: Call) -> Tensor | None:
    """Values whose channels are shifted and mixed so that the first batch norm gets the statistics that it keeps;
    ``None`` where no batch norm is reached."""
    channels = form.split(raw)
    few, width = channels[:_FEW], form.width
    axes = (1, width, *(1,) * (channels.dim() - 2))

    def gap(values: Tensor) -> Tensor | None:
        return _first_gap(model, call(form.joined(values).to(raw.dtype)))

    with torch.no_grad():
        gaps = [gap(few * deviation + mean) for mean, deviation in _SCALES]
    if any(found is None for found in gaps):
        return None
    mean, deviation = _SCALES[min(range(len(gaps)), key=lambda place: _finite(gaps[place]))]
    mix = (torch.eye(width) if width <= _MIXED else torch.ones(width)).requires_grad_()
    shift = torch.zeros(width, requires_grad=True)

    def mixed(values: Tensor) -> Tensor:
        turned = torch.einsum("dc,nc...->nd...", mix, values) if mix.dim() == 2 else values * mix.reshape(axes)
        return (turned + shift.reshape(axes)) * deviation + mean

    optimizer = torch.optim.Adam([mix, shift], _RATE)
    for _ in range(_STEPS):
        found = gap(mixed(few))
        if found is None or not torch.isfinite(found):
            return None
        mix.grad, shift.grad = torch.autograd.grad(found, [mix, shift])
        optimizer.step()
    with torch.no_grad():
        return form.joined(mixed(channels)).to(raw.dtype)


def _finite(gap: Tensor | None) -> float:
    return math.inf if gap is None or not torch.isfinite(gap) else float(gap)


class Reached(BaseException):
    """Ends a forward pass."""


def _first_gap(model: nn.Module, batch: Batch) -> Tensor | None:
    """How far a batch is from the statistics of the first batch norm that it reaches; ``None``: it reaches none."""
    gaps: list[Tensor] = []

    def hear(name: str, norm: _BatchNorm, inputs: Tensor) -> None:
        gaps.append(statistics_gap(inputs, norm))
        raise Reached

    with listening(model, hear):
        _run(model, batch)
    return gaps[0] if gaps else None


def _run(model: nn.Module, batch: Batch) -> None:
    """A forward pass that a hook may end."""
    dtype = Inputs(model).dtype
    batch = batch.map(lambda t: t.to(dtype) if t.is_floating_point() and dtype is not None else t)
    with evaluation_mode(model), suppress(Reached):
        guarded(model, lambda: batch.to(device_of(model)).run(model))
