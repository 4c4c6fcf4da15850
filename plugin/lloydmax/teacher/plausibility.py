"""What is legal but surely not meant, told from a few inputs before the work: doubts about data and teacher."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lloydmax.data import Batch, Source
from lloydmax.network.batch_norm import Moments, bhattacharyya, listening
from lloydmax.network.outputs import Outputs
from lloydmax.runtime.cache import Cache, number
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.runtime.seeding import seeded
from lloydmax.runtime.text import counted

LOOKED_AT = 64
"""Samples of the one forward pass."""
_FEWEST, _VALUES = 2, 1 << 19
"""Samples of it where outputs are large, and values of each output that are compared."""
FAR = 0.6
"""Mean distance over the channels of the first batch norm. Right inputs have 0.1 and less, those of another domain up
to 0.3, pictures from 0 to 255 about 2: see tests/benchmarks/plausibility.py."""
_FARTHEST = 10.0
"""That one channel counts at most."""
ALIKE = 0.01
"""Deviation over inputs as a share of the size of a value, the mean over values; data of any kind have 0.1 and more."""
TOLD_APART = 0.1
"""The same of outputs, the median over values, from which small differences of inputs (kelvins) are what counts."""
SAME_OUTPUTS = 1e-3
"""Share of the variance of the outputs that lies between inputs."""
_CONSTANT = 1e-5
"""The same of what is constant, but for rounding."""
_ROUNDED = 1.001
"""Times the bound of a draw, which half precision may round up."""
FEW = 32
"""Samples from which on training does not say that they are few."""


def tell_doubts(
    teacher: nn.Module,
    source: Source,
    trains: str | None = None,
    cache: Cache | None = None,
    outputs: Outputs | None = None,
) -> tuple[str, ...]:
    """Warn once of each of :func:`doubts`; runs that share a cache and the source are told once together."""
    if cache is not None:
        name = ("doubts", number(source), trains)
        return cache.get(name, lambda: tell_doubts(teacher, source, trains, outputs=outputs))
    found = doubts(teacher, source, trains, outputs)
    for doubt in found:
        warnings.warn(doubt, stacklevel=3)
    return tuple(found)


def doubts(teacher: nn.Module, source: Source, trains: str | None = None, outputs: Outputs | None = None) -> list[str]:
    """What is legal but surely not meant, in words; one forward pass of at most 64 samples, of few with large outputs.

    Args:
        teacher: the original; run in evaluation mode, left as it was.
        source: unlabelled inputs.
        trains: the name of a recovery step that trains on them; ``None``: none does.
        outputs: how large they are, as a trial found.

    Returns:
        Doubts whether the inputs are scaled as in training (by the statistics of the first batch norm), whether they
        differ from each other, whether the teacher is trained and its outputs depend on the inputs, and whether
        there are enough samples. Empty where all is well, and as far as the teacher cannot be run on the inputs.
    """
    found = [_few(source, trains), _untrained(teacher)]
    with suppress(Exception), seeded(0, teacher):  # what cannot be run is told where it is needed
        found += _of_a_pass(teacher, source, outputs)
    return [doubt for doubt in found if doubt]


def _of_a_pass(teacher: nn.Module, source: Source, known: Outputs | None) -> list[str]:
    heard: list[tuple[str, _BatchNorm, Moments]] = []

    def hear(name: str, norm: _BatchNorm, inputs: Tensor) -> None:
        if not heard:
            heard.append((name, norm, Moments.of(inputs)))

    most = LOOKED_AT if known is None else max(_FEWEST, known.at_once(source.first(1)))
    batch = source.first(min(LOOKED_AT, most))
    with evaluating(teacher), listening(teacher, hear):
        given = Batch((batch.to(device_of(teacher), channels_last=True).run(teacher),))
    samples, found = len(batch), [_far(*norm, batch, source) for norm in heard]
    if samples == 1:
        return found
    inputs = [tensor for tensor in batch.tensors() if tensor.ndim and len(tensor) == samples]
    outputs = [_some(tensor) for tensor in given.tensors() if tensor.ndim and len(tensor) == samples]
    outputs = [tensor for tensor in outputs if tensor.is_floating_point() and bool(torch.isfinite(tensor).all())]
    differ = max((float(_spread(tensor).mean()) for tensor in inputs), default=1.0)
    if differ < _CONSTANT or (differ < ALIKE and not any(map(_told_apart, outputs))):
        return [
            f"all inputs are nearly equal: {samples} samples differ by {float(_spread(inputs[0]).mean()):.2%} of their "
            f"size ({source.describe()}). Is every item of the data read, and not one of them again and again?",
        ]
    if outputs and all(map(_hardly_differs, outputs)):
        found.append(
            f"the outputs of {type(teacher).__name__} hardly differ between inputs: {_between(outputs[0]):.2g} of "
            "their variance lies between samples. Are the weights loaded (--weights, load_state_dict), and the inputs "
            "those that it was trained on?"
        )
    return found


def _some(tensor: Tensor) -> Tensor:
    """A tensor, samples first, with evenly spaced values where each sample has very many."""
    step = tensor[0].numel() // _VALUES
    return tensor.reshape(len(tensor), -1)[:, ::step] if step > 1 else tensor


def _far(name: str, norm: _BatchNorm, moments: Moments, batch: Batch, source: Source) -> str:
    """Whether what reaches a batch norm is far from what it keeps of the training data."""
    values = next((tensor.double() for tensor in batch.tensors() if tensor.is_floating_point()), None)
    found = distance(norm, moments)
    if not found > FAR or values is None:
        return ""
    return (
        f"the inputs ({source.describe()}) are far from what the model was trained on: what reaches the first batch "
        f"norm, {name!r}, is at a distance of {found:.1f} from the statistics that it keeps; right inputs have less "
        f"than 0.3. The inputs lie between {float(values.min()):.4g} and "
        f"{float(values.max()):.4g}, mean {float(values.mean()):.4g}, deviation {float(values.std()):.4g}: scale them "
        "as in training (such as 0 to 1 in place of 0 to 255, then mean and std)"
    )


def distance(norm: _BatchNorm, moments: Moments) -> float:
    """Between the Gaussians of what reaches a batch norm and of what it keeps (Bhattacharyya), a mean over channels."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean, variance = moments.mean_and_variance()
    kept = norm.running_mean.double(), norm.running_var.double() + norm.eps
    return float(bhattacharyya(mean, variance + norm.eps, *kept).clamp(max=_FARTHEST).mean())


def _few(source: Source, trains: str | None) -> str:
    if trains is None or len(source) >= FEW or source.first(1).whole:
        return ""
    many = counted(len(source), "samples")
    return (
        f"{trains!r} trains on only {many} ({source.describe()}): give at least {FEW}, better some hundreds; "
        "unlabelled inputs of another domain serve, too"
    )


def _untrained(teacher: nn.Module) -> str:
    """Whether all layers are as they were made."""
    norms = list(_norms(teacher))
    layers = [
        module
        for module in teacher.modules()
        if isinstance(module, (_ConvNd, nn.Linear, nn.RNNBase)) and all(p.numel() for p in module.parameters())
    ]
    biases = [layer.bias for layer in layers if isinstance(layer.bias, Tensor)]
    if norms:
        fresh, what = all(norms), "every normalization has the statistics and weights that it was made with"
    elif len(biases) > 1 and all(_is(bias, 0) for bias in biases):
        fresh, what = True, "every bias is zero"
    else:
        fresh = len(layers) > 1 and all(map(_as_drawn, layers))
        what = "every weight is within the range that layers are drawn from"
    if not fresh:
        return ""
    return (
        f"{type(teacher).__name__} looks untrained: {what}. Were the weights forgotten (load_state_dict in Python; on "
        "the command line --weights, or what loads them: --model-args '{\"pretrained\": true}' of timm, "
        '\'{"weights": "DEFAULT"}\' of torchvision)?'
    )


def _norms(model: nn.Module) -> Iterator[bool]:
    """Of every normalization with weights or statistics, whether it is as it was made."""
    for module in model.modules():
        if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
            weight, variance = (getattr(module, name, None) for name in ("weight", "running_var"))
            zeros = [getattr(module, name, None) for name in ("bias", "running_mean")]
            if weight is not None or variance is not None:
                made = _is(weight, 1) or _is(weight, 0)  # zero: at the end of a residual block, as timm makes it
                yield made and _is(variance, 1) and all(_is(tensor, 0) for tensor in zeros)


def _as_drawn(layer: nn.Module) -> bool:
    """Whether the weights lie in the range that torch draws them from."""
    if isinstance(layer, nn.RNNBase):
        return all(_within(parameter, layer.hidden_size) for parameter in layer.parameters())
    assert isinstance(layer, (_ConvNd, nn.Linear))
    fan_in = layer.weight[0].numel()
    if isinstance(layer, _ConvTransposeNd):
        fan_in = layer.weight[:, 0].numel() // layer.groups if layer.groups > 1 else layer.weight[0].numel()
    return _within(layer.weight, fan_in)


def _within(weight: Tensor, fan_in: int) -> bool:
    return float(weight.detach().abs().max()) <= _ROUNDED / math.sqrt(fan_in)


def _is(tensor: Tensor | None, value: float) -> bool:
    return tensor is None or bool((tensor.detach() == value).all())


def _spread(tensor: Tensor) -> Tensor:
    """Deviation over samples as a share of the root mean square, of every value of a sample that is not always zero; of
    integers, whether it differs. float64, 1-D, at least one value."""
    values = tensor.detach().reshape(len(tensor), -1)
    if not values.is_floating_point():
        found = (values != values[:1]).any(0).double()
    else:
        size = values.double().square().mean(0).sqrt()
        found = values.double().std(0)[size > 0] / size[size > 0]
    return found if len(found) else torch.zeros(1, dtype=torch.float64)


def _between(tensor: Tensor) -> float:
    """The share of the variance of all values that lies between samples."""
    values = tensor.detach().reshape(len(tensor), -1).double()
    return float(values.var(0).mean() / values.var().clamp(min=1e-300))


def _told_apart(tensor: Tensor) -> bool:
    """Whether most outputs depend much on the input."""
    return float(_spread(tensor).median()) > TOLD_APART


def _hardly_differs(tensor: Tensor) -> bool:
    """Whether most outputs are nearly the same for all inputs: what tells values apart is not the input."""
    spread = float(_spread(tensor).median())
    return spread < _CONSTANT or (spread < ALIKE and _between(tensor) < SAME_OUTPUTS)
