"""The scales of channels along chains of layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lloydmax import RecoveryError
from lloydmax.extend import Channels, Link
from torch import Tensor, nn

LOCK = 5.9 / 6
"""Share of the ceiling from which a channel is locked (Goncharenko et al. 2019), and that no scale exceeds."""

_MOST = {torch.float16: 2.0**4}
_MOST_ELSE = 2.0**16
_DEAD = 2.0**-20
_SETTLED = 1e-2


class Scales:
    """One positive scale for each channel of a link: the first layer's outputs times it, the second's inputs over it.

    Weights are represented by the largest magnitude between each output and input channel, and changed once, by
    :meth:`apply`, so that they are rounded once.

    Args:
        model: holds the layers.
        links: at most one from and one to each layer.
        most: the largest output of first layers of links with a ceiling, ``(C,)`` float64, on calibration data.
    """

    def __init__(self, model: nn.Module, links: list[Link], most: dict[str, Tensor]) -> None:
        self.links = links
        names = dict.fromkeys(name for link in links for name in (link.first, link.second))
        self.layers: dict[str, Any] = {name: model.get_submodule(name) for name in names}
        self._after = {link.first: link for link in links}
        self._before = {link.second: link for link in links}
        self._strength = {name: self._strengths(name) for name in names}
        self._scale = {link.first: self._ones(link) for link in links}
        self._limits: dict[str, tuple[Tensor, Tensor]] = {}
        self.locked = 0
        for link in links:
            ones = self._scale[link.first]
            bound = _MOST.get(self.layers[link.first].weight.dtype, _MOST_ELSE)
            low, high = ones / bound, ones * bound
            if link.first in most:
                ceiling = LOCK * link.ceiling
                largest = most[link.first]
                free = largest < ceiling
                high = torch.where(free & (largest > 0), torch.minimum(high, ceiling / largest), high)
                low, high = torch.where(free, low, 1), torch.where(free, high, 1)
                self.locked += int((~free).sum())
            live = _live(self._outputs(link.first)) & _live(self._inputs(link.second))
            self._limits[link.first] = torch.where(live, low, 1), torch.where(live, high, 1)

    @property
    def channels(self) -> int:
        """Of all links."""
        return sum(len(scale) for scale in self._scale.values())

    @property
    def largest(self) -> float:
        """The scale that is farthest from 1."""
        return math.exp(max(float(scale.log().abs().max()) for scale in self._scale.values()))

    def of(self, link: Link) -> Tensor:
        """The scales of one link, ``(C,)`` float64."""
        return self._scale[link.first]

    def spread(self) -> float:
        """How many bits of range the average output channel leaves unused: ``log2`` of the largest over its own."""
        bits = []
        for name in self.layers:
            ranges = self._outputs(name)
            ranges = ranges[_live(ranges)]
            if len(ranges):
                bits.append((ranges.max() / ranges).log2())
        return float(torch.cat(bits).mean()) if bits else 0.0

    def equalize(self, iterations: int, tell: Callable[[int], None]) -> int:
        """Until both ranges of every channel are the same, or as near as the limits allow; returns the rounds.

        One round sets ``s = sqrt(r1 r2) / r1`` for one link after the other (Nagel et al. 2019, equation 11), and
        ``tell`` gets its number.
        """
        done, change = 0, math.inf
        while done < iterations and change > _SETTLED:
            done, change = done + 1, 0.0
            for link in self.links:
                step = (self._inputs(link.second) / self._outputs(link.first)).sqrt()
                change = max(change, self._set(link, self._scale[link.first] * step))
            tell(done)
        return done

    def rescale(self) -> None:
        """Give all filters of a first layer that are not locked the range ``T``: the mean range of the locked ones, or
        the geometric mean of all where none is."""
        for link in self.links:
            ranges = self._outputs(link.first)
            low, high = self._limits[link.first]
            free, live = low < high, _live(ranges)
            locked = ranges[~free & live]
            if bool(live.any()):
                target = locked.mean() if len(locked) else ranges[live].log().mean().exp()
                self._set(link, target / ranges)

    @torch.no_grad()
    def apply(self) -> None:
        """Write the scales into the weights and biases of the model.

        Raises:
            RecoveryError: a weight does not fit its dtype any more; the layers before it are changed.
        """
        for name, layer in self.layers.items():
            up = self._scale[name] if name in self._after else None
            down = 1 / self._spread_out(name) if name in self._before else None
            _write(name, layer.weight, Channels(layer).scaled(layer.weight, up, down))
            if up is not None and layer.bias is not None:
                _write(name, layer.bias, layer.bias.double() * up)

    def _spread_out(self, name: str) -> Tensor:
        link = self._before[name]
        return self._scale[link.first].repeat_interleave(link.columns)

    def _set(self, link: Link, scale: Tensor) -> float:
        low, high = self._limits[link.first]
        scale = torch.where(low < high, torch.nan_to_num(scale, nan=1.0).clamp(low, high), 1)
        change = float((scale / self._scale[link.first]).log().abs().max())
        self._scale[link.first] = scale
        return change

    def _strengths(self, name: str) -> Tensor:
        """``(groups, outputs, inputs)``, float64; of a link's columns the largest."""
        layer = self.layers[name]
        strength = Channels(layer).by_group(layer.weight.detach().abs())
        strength = strength.flatten(3).amax(3) if strength.dim() > 3 else strength
        if name in self._before:
            strength = strength.unflatten(2, (-1, self._before[name].columns)).amax(3)
        return strength.float()

    def _scaled(self, name: str) -> Tensor:
        strength = self._strength[name]
        if name in self._before:
            strength = strength / self._scale[self._before[name].first].float().view(len(strength), 1, -1)
        if name in self._after:
            strength = strength * self._scale[name].float().view(len(strength), -1, 1)
        return strength

    def _outputs(self, name: str) -> Tensor:
        """The range of each output channel, ``(C,)`` float64."""
        return self._scaled(name).amax(2).flatten().double()

    def _inputs(self, name: str) -> Tensor:
        """The range of each input channel, ``(C,)`` float64."""
        return self._scaled(name).amax(1).flatten().double()

    def _ones(self, link: Link) -> Tensor:
        layer = self.layers[link.first]
        return torch.ones(Channels(layer).outputs, dtype=torch.float64, device=layer.weight.device)


@torch.no_grad()
def absorb(model: nn.Module, link: Link, least: Tensor) -> int:
    """Move what the output of the first layer never goes below from its bias to that of the second.

    Only where nothing but a ReLU stands between, both have a bias and no zero padding comes between.

    Args:
        model: holds the layers.
        link: two of them.
        least: of each output of the first, ``(C,)`` float64; what is below 0 counts as 0.

    Returns:
        The number of channels that were moved.
    """
    first, second = (_any(model.get_submodule(name)) for name in (link.first, link.second))
    if link.activation != "relu" or not link.pointwise or first.bias is None or second.bias is None:
        return 0
    if not _keeps_constants(second):
        return 0
    moved = least.clamp(min=0)
    kernel = Channels(second).by_group(second.weight.double())
    kernel = kernel.flatten(3).sum(3) if kernel.dim() > 3 else kernel
    _write(link.first, first.bias, first.bias.double() - moved)
    shift = (kernel * moved.view(len(kernel), 1, -1)).sum(2).flatten()
    _write(link.second, second.bias, second.bias.double() + shift)
    return int((moved > 0).sum())


@torch.no_grad()
def scale_into_norms(
    model: nn.Module, pairs: list[tuple[str, str]], measure: str, tell: Callable[[int, int, dict[str, float]], None]
) -> dict[str, Any]:
    """Give all filters of a layer the range, or rms, of its largest; the batch norm after it takes the scales back.

    Running statistics are scaled along, so that they stay those of the layer's outputs.

    Args:
        model: holds the layers and batch norms.
        pairs: ``(layer, batch norm)`` by name; batch norms without a weight are left out.
        measure: ``range``, the largest magnitude, or ``rms``.
        tell: gets the pairs done, all of them, and ``{"spread": bits of range that the last layer left unused}``.

    Returns:
        What was done, as the step reports it.
    """
    bits, count, largest = [], 0, 1.0
    for index, (layer_name, norm_name) in enumerate(pairs, start=1):
        layer, norm = _any(model.get_submodule(layer_name)), _any(model.get_submodule(norm_name))
        channels = Channels(layer)
        filters = channels.by_group(layer.weight.double()).flatten(2)
        ranges = filters.abs().amax(2).flatten() if measure == "range" else filters.square().mean(2).sqrt().flatten()
        ranges = ranges / ranges.max().clamp(min=1e-30)
        live = _live(ranges)
        if norm.weight is None or not bool(live.any()):
            continue
        ranges = torch.where(live, ranges, 1).clamp(min=1 / _MOST.get(layer.weight.dtype, _MOST_ELSE))
        variance, wanted = norm.running_var.double(), norm.running_var.double() / ranges.square()
        gain = ranges * ((wanted + norm.eps) / (variance + norm.eps)).sqrt()
        _write(layer_name, layer.weight, channels.scaled(layer.weight, outputs=1 / ranges))
        if layer.bias is not None:
            _write(layer_name, layer.bias, layer.bias.double() / ranges)
        _write(norm_name, norm.running_mean, norm.running_mean.double() / ranges)
        _write(norm_name, norm.running_var, wanted)
        _write(norm_name, norm.weight, norm.weight.double() * gain)
        bits.append(-ranges[live].log2())
        count, largest = count + len(ranges), max(largest, float(1 / ranges.min()))
        tell(index, len(pairs), {"spread": float(bits[-1].mean())})
    spread = float(torch.cat(bits).mean()) if bits else 0.0
    return {
        "spread_before": spread,
        "spread_after": 0.0,
        "chains": len(bits),
        "channels": count,
        "locked": 0,
        "largest_scale": largest,
    }


def _keeps_constants(layer: Any) -> bool:
    """Whether inputs that are constant over positions give outputs that are: no padding with zeros."""
    if isinstance(layer, nn.Linear):
        return True
    spatial = tuple((k - 1) * d + 4 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
    constants = 1 + torch.rand(Channels(layer).inputs, generator=torch.Generator().manual_seed(0)).to(layer.weight)
    output = layer(constants.view(1, -1, *(1 for _ in spatial)).expand(1, -1, *spatial)).float().flatten(2)
    return bool((output.amax(2) - output.amin(2)).max() <= 1e-3 * output.abs().max())


def _any(module: nn.Module) -> Any:
    return module


def _live(ranges: Tensor) -> Tensor:
    return ranges > _DEAD * ranges.max()


def _write(name: str, parameter: Tensor, values: Tensor) -> None:
    values = values.to(parameter.dtype)
    if not bool(torch.isfinite(values).all()):
        raise RecoveryError(f"{name}: its rescaled values do not fit {parameter.dtype}; leave the step out")
    parameter.copy_(values)


__all__ = ["LOCK", "Scales", "absorb", "scale_into_norms"]
