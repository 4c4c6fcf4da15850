"""How large the values of made inputs are: as the first batch norm, examples or the first layer tell; examples only
where the model stands such inputs, for many are noise that shows the shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lloydmax.data.batch import Batch
from lloydmax.data.inputs import Inputs
from lloydmax.data.natural import Form
from lloydmax.network.batch_norm import listening, statistics_gap, tracked
from lloydmax.network.guard import guarded
from lloydmax.network.private import own
from lloydmax.network.trees import output_tensors
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
_TAILS = (1.75, 2.5)
"""Deviations of the logarithms of powers."""
_TAILED = (0.1, 2.0)
"""Means, in deviations, of what may be powers."""
_NOISE, _UNSTEADY = 0.03, 3.0
"""Noise in the weights, in their root mean squares; how many times as much as in the best kind it may do."""
_UNLIKE = 10.0
"""How many times as much it may do in inputs that are like examples, if it does more than other inputs do."""
_TOLD, _RIDGE = 2.5, 0.1
"""Standard errors from 0 of a mean that biases tell; share of the mean square of a row in a regression on rows."""
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
    told, asked = _like_examples(form, raw), _asked(model, form, raw, call, alone)
    if not alone:
        return _in_turn(told or asked)
    shares = _shares(model, [*told, *asked], call) if len(told) + len(asked) > 1 else [0.0]
    ours, others = shares[: len(told)], shares[len(told) :]
    if told and min(ours) <= max(1.0, _UNLIKE * min(others)):
        return _in_turn(_steady(told, ours))
    return _in_turn(_steady(asked, others))


def _like_examples(form: Form, raw: Tensor) -> list[Tensor]:
    """Kinds of values like those that were told of; none where nothing was."""
    if form.profile is not None:
        mean, deviation = form.profile.along(form.shape)
    elif form.mean is not None and form.deviation is not None:
        mean, deviation = torch.tensor(form.mean), torch.tensor(form.deviation)
    else:
        return []
    tailed = not form.pictures and _TAILED[0] < float(mean.mean()) / float(deviation.mean()) < _TAILED[1]
    return [raw * deviation + mean, *([_powers(raw) * deviation] if tailed else [])]


def _asked(model: nn.Module, form: Form, raw: Tensor, call: Call, alone: bool) -> list[Tensor]:
    """Kinds of values of a size that the first layer asks for."""
    wanted, mean = _by_first_layer(model, form, raw, call) if alone else (1.0, torch.zeros(()))
    if form.pictures and wanted >= _LARGE:
        return [_bright(raw) * _BYTES]
    if form.pictures and wanted <= _NORMAL:
        bright = _SPREAD < float(mean.mean()) < 1 - _SPREAD
        return [_bright(raw)] if bright else [raw, _bright(raw)]
    loud = 2 ** (2 * (_GOLDEN * torch.arange(len(raw)) % 1) - 1)
    sizes = wanted * loud.reshape(-1, *(1,) * (raw.dim() - 1))
    wave = form.width == 1 and math.prod(form.shape) == max(form.shape, default=1)
    return [raw * sizes + mean, *([] if wave else [_powers(raw) * sizes + mean])]


def _bright(raw: Tensor) -> Tensor:
    """From 0 to 1."""
    return (_BRIGHT + _SPREAD * raw).clamp(0, 1)


def _powers(raw: Tensor) -> Tensor:
    """Positive, with long tails, of deviation 1 over all samples of one tail."""
    made = raw.clone()
    for place in range(min(2 * len(_TAILS), len(raw))):
        powers = (_TAILS[place // 2] * raw[place :: 2 * len(_TAILS)]).exp()
        made[place :: 2 * len(_TAILS)] = powers / powers.std(correction=0).clamp(min=1e-12)
    return made


def _in_turn(kinds: Sequence[Tensor]) -> Tensor:
    """Samples of these kinds in turn."""
    made = kinds[0].clone()
    for place in range(1, len(kinds)):
        made[place :: len(kinds)] = kinds[place][place :: len(kinds)]
    return made


def _steady(kinds: Sequence[Tensor], shares: Sequence[float]) -> list[Tensor]:
    """Those kinds for which noise in the weights changes the outputs little: a network stands noise best where it was
    trained."""
    return [kind for kind, share in zip(kinds, shares, strict=True) if share <= _UNSTEADY * min(shares)]


def _shares(model: nn.Module, kinds: Sequence[Tensor], call: Call) -> list[float]:
    """How much noise in the weights changes the outputs for each kind, as a share of how they differ between
    samples."""
    generator, noisy = Generator().manual_seed(0), own(model)
    with torch.no_grad():
        for parameter in noisy.parameters():
            if parameter.dim() > 1 and parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(noise * _NOISE * parameter.square().mean().sqrt())
        return [_change(_outputs(model, call(kind[:_FEW])), _outputs(noisy, call(kind[:_FEW]))) for kind in kinds]


def _change(outputs: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The squared difference as a share of that between samples, of all outputs alike."""
    shares = []
    for one, other in zip(outputs, others, strict=True):
        if one.is_floating_point() and one.shape == other.shape:
            spread = (one - one.mean(0, keepdim=True)).double().square().sum()
            shares.append(float((one - other).double().square().sum() / spread.clamp(min=1e-30)))
    mean = sum(shares) / max(len(shares), 1)
    return mean if math.isfinite(mean) else math.inf


def _by_first_layer(model: nn.Module, form: Form, raw: Tensor, call: Call) -> tuple[float, Tensor]:
    """The deviation at which what the first layer makes of its inputs has the usual one, 1 where none is reached; and
    the mean that its biases take off, to be broadcast to a sample, 0 where they tell none."""
    heard: list[tuple[float, Tensor]] = []
    given = call(raw[:_FEW])

    def look(module: Any, args: Any, output: Any) -> None:
        if isinstance(module, nn.RNNBase):
            made = args[0] @ module.weight_ih_l0.T
        else:
            axes = (-1,) if isinstance(module, nn.Linear) else (-1, *(1,) * (output.dim() - 2))
            made = output if module.bias is None else output - module.bias.reshape(axes)
        same = args[0].numel() == raw[:_FEW].numel() and bool(
            (args[0].cpu().reshape(-1) == raw[:_FEW].reshape(-1)).all()
        )
        mean = _taken_off(module, form) if same else None
        heard.append((float(made.float().std()), torch.zeros(()) if mean is None else mean))
        raise Reached

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, (nn.Linear, _ConvNd, nn.RNNBase)):
                stack.callback(module.register_forward_hook(look).remove)
        with torch.no_grad():
            _run(model, given)
    if not heard or not math.isfinite(heard[0][0]) or not heard[0][0] > 0:
        return 1.0, torch.zeros(())
    return _USUAL / heard[0][0], heard[0][1]


def _taken_off(layer: nn.Module, form: Form) -> Tensor | None:
    """The mean of the inputs that the biases of a first layer take off, to be broadcast to a sample: a batch norm that
    was folded, or training, centres what a layer gives. ``None``: they are not large enough to tell it.

    One mean for all inputs is asked first, and where biases tell it, how each differs from it (ridge regression).
    """
    if isinstance(layer, nn.RNNBase) or getattr(layer, "bias", None) is None:
        return None
    weight, bias = layer.weight.detach().double().cpu(), layer.bias.detach().double().cpu()  # type: ignore[operator]
    weight = weight.flatten(2).sum(2) if isinstance(layer, _ConvNd) else weight
    sums, count = weight.sum(1), len(bias)
    along = float(sums @ bias) ** 2 / max(float(sums @ sums) * float(bias @ bias), 1e-300)
    if along * (count - 1) <= _TOLD**2 * (1 - along):
        return None
    common = -float(sums @ bias) / float(sums @ sums)
    left, gram = bias + common * sums, weight @ weight.T
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(count, dtype=torch.float64)
    each = common - weight.T @ torch.linalg.solve(gram + ridge, left)
    if isinstance(layer, nn.Linear) and each.numel() == math.prod(form.shape):
        return each.reshape(form.shape).float()
    if isinstance(layer, nn.Linear) and form.shape[-1:] == each.shape:
        return each.float()
    return torch.tensor(common)


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
        if found is None or not torch.isfinite(found) or not found.requires_grad:
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


def _run(model: nn.Module, batch: Batch) -> Any:
    """A forward pass that a hook may end: nothing then."""
    dtype = Inputs(model).dtype
    batch = batch.map(lambda t: t.to(dtype) if t.is_floating_point() and dtype is not None else t)
    with evaluation_mode(model), suppress(Reached):
        return guarded(model, lambda: batch.to(device_of(model)).run(model))


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    return output_tensors(_run(model, batch), None)
