"""The second moments of what the weights of a layer multiply, from the layer's inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from lloydmax.extend import Channels
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FLOATS = 1 << 24
"""Of the unfolded input at once."""
_SPATIAL: dict[Callable[..., Tensor], int] = {F.linear: 0, F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class NotPlain(Exception):
    """The layer does something else with its weight than one convolution or one product."""


class Gram:
    """``X^T X`` of a weight, for each group of its rows.

    A column of ``X`` is what one weight of a row multiplies, a row of ``X`` one position of one sample.

    Args:
        groups, columns: of the weight.
        device: where it is.
    """

    def __init__(self, groups: int, columns: int, device: torch.device) -> None:
        self._products = torch.zeros((groups, columns, columns), dtype=torch.float64, device=device)
        self._sums = torch.zeros((groups, columns), dtype=torch.float64, device=device)
        self.rows = torch.zeros(groups, dtype=torch.float64, device=device)

    def add(self, x: Tensor, where: slice = slice(None)) -> None:
        """Take in rows ``(groups, n, columns)`` of these groups."""
        rows = x.detach().float()
        self._products[where] += rows.mT @ rows
        self._sums[where] += rows.sum(1, dtype=torch.float64)
        self.rows[where] += rows.shape[1]

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean of ``x x^T``, ``(groups, columns, columns)``, and of ``x``, ``(groups, columns)``; float64. Of a
        group that has seen no row, zeros."""
        rows = self.rows.clamp(min=1)
        return self._products / rows[:, None, None], self._sums / rows[:, None]


class LayerRows:
    """What a convolution or linear layer multiplies, for each group of its channels.

    A column is what one weight of an output channel multiplies, a row one position of one sample, as the layer itself
    hands them to PyTorch: padding of its own making is seen, too.

    Args:
        layer: called with one input.
        weight: of the layer, dense.
        most: rows of one input that are taken in, nearly, evenly spaced; ``None``: all.
    """

    def __init__(self, layer: nn.Module, weight: Tensor, most: int | None = None) -> None:
        self._layer, self._weight, self._most = layer, weight, most

    def of(self, x: Tensor) -> Iterator[Tensor]:
        """The rows ``(groups, n, columns)`` of one input of the layer.

        Raises:
            NotPlain: the weight is not used once, as it is, by a convolution or a product.
        """
        with _Calls() as made:
            self._layer.forward(x)
        if len(made.found) != 1 or not torch.equal(made.found[0][1]["weight"], self._weight):
            raise NotPlain
        ((spatial, call),) = made.found
        given = call["input"].detach()
        if spatial == 0:
            given = given.reshape(-1, given.shape[-1])
        elif given.dim() == spatial + 1:
            given = given[None]
        padded = _padded(given, spatial, call)
        each = padded[0].numel() * self._weight[0, 0].numel()
        for part in padded.split(max(1, _FLOATS // max(each, 1))):
            yield _unfolded(part, spatial, call, len(padded) / len(part), self._most)


class LayerGram(Gram):
    """``X^T X`` of a convolution or linear layer, for each group of its channels, from its inputs.

    Args:
        layer, weight, most: see :class:`LayerRows`.
    """

    def __init__(self, layer: nn.Module, weight: Tensor, most: int | None = None) -> None:
        self._seen = LayerRows(layer, weight, most)
        groups, _, columns = Channels(layer).by_group(weight).flatten(2).shape
        super().__init__(groups, columns, weight.device)

    def add(self, x: Tensor, where: slice = slice(None)) -> None:
        """Take in one input of the layer; raises as :meth:`LayerRows.of`."""
        for rows in self._seen.of(x):
            super().add(rows, where)


class _Calls(TorchFunctionMode):
    """Sees the convolutions and products that run: the number of spatial axes, and the arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, dict[str, Any]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (spatial := _SPATIAL.get(func)) is not None:
            self.found.append((spatial, {**dict(zip(_ARGUMENTS, args, strict=False)), **(kwargs or {})}))
        return func(*args, **(kwargs or {}))


def _padded(x: Tensor, spatial: int, call: dict[str, Any]) -> Tensor:
    padding = call.get("padding", 0)
    if not spatial or padding in (0, "valid"):
        return x
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(_each(call, "dilation", spatial), call["weight"].shape[2:], strict=True)]
        sides = [side for total in reversed(reach) for side in (total // 2, total - total // 2)]
    else:
        sides = [side for one in reversed(_each(call, "padding", spatial)) for side in (one, one)]
    return F.pad(x, sides)


def _unfolded(x: Tensor, spatial: int, call: dict[str, Any], parts: float, most: int | None) -> Tensor:
    """``(groups, rows, columns)`` of a padded input, one of so many parts, of all of which at most so many rows are
    wanted, evenly spaced."""
    if not spatial:
        return x[None, :: _step(len(x) * parts, most)]
    kernel = call["weight"].shape[2:]
    steps, spread = _each(call, "stride", spatial), _each(call, "dilation", spatial)
    for axis, (size, step, dilation) in enumerate(zip(kernel, steps, spread, strict=True), start=2):
        x = x.unfold(axis, dilation * (size - 1) + 1, step)[..., ::dilation]
    groups = call.get("groups", 1)
    x = x.unflatten(1, (groups, -1))  # samples, groups, inputs of a group, *positions, *kernel
    places, offsets = range(3, 3 + spatial), range(3 + spatial, 3 + 2 * spatial)
    x = x.permute(1, 0, *places, 2, *offsets)
    shape = tuple(x.shape[1 : 2 + spatial])
    if (step := _step(math.prod(shape) * parts, most)) > 1:
        rows = torch.arange(0, math.prod(shape), step, device=x.device)
        picked: list[Any] = [slice(None), *torch.unravel_index(rows, shape)]
        x = x[tuple(picked)]
    return x.reshape(groups, -1, math.prod(x.shape[-1 - spatial :]))


def _step(rows: float, most: int | None) -> int:
    """One row in how many is wanted."""
    return 1 if most is None else max(1, -(-round(rows) // most))


def _each(call: dict[str, Any], name: str, spatial: int) -> list[int]:
    value = call.get(name, 0 if name == "padding" else 1)
    return [value] * spatial if isinstance(value, int) else [*value] * (spatial // len(value))
