"""How layers and operations act on channels: which are linear, which commute with a positive scale of each channel."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

Activation = Literal["none", "relu", "leaky", "relu6"]


def is_linear_layer(module: nn.Module) -> bool:
    """Whether its output is linear in a float weight that it holds itself, plus its bias, channel by channel."""
    if not isinstance(module, (nn.Linear, _ConvNd)) or parametrize.is_parametrized(module):
        return False
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    for parameter in (weight, bias):
        if parameter is not None and (nn.parameter.is_lazy(parameter) or not parameter.is_floating_point()):
            return False
    return weight is not None and (_is_standard(module) or _acts_linearly(module))


def is_depthwise(layer: nn.Module) -> bool:
    """Whether every input channel has filters of its own."""
    return 1 < getattr(layer, "groups", 1) == getattr(layer, "in_channels", None)


class Channels:
    """The channels of a convolution, transposed convolution or linear layer, and its weight seen by them.

    Args:
        layer: but for :attr:`linear` only its class and its numbers are looked at, so that tensors of the same shape
            are seen likewise.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer: Any = layer

    @property
    def outputs(self) -> int:
        """The number of output channels or features."""
        return int(self._layer.out_features if isinstance(self._layer, nn.Linear) else self._layer.out_channels)

    @property
    def inputs(self) -> int:
        """The number of input channels or features."""
        return int(self._layer.in_features if isinstance(self._layer, nn.Linear) else self._layer.in_channels)

    @property
    def linear(self) -> bool:
        """See :func:`is_linear_layer`."""
        return is_linear_layer(self._layer)

    @property
    def depthwise(self) -> bool:
        """Whether every input channel has filters of its own."""
        return is_depthwise(self._layer)

    def by_group(self, weight: Tensor) -> Tensor:
        """A view ``(groups, outputs of a group, inputs of a group, *kernel)`` of a tensor shaped like the weight."""
        view = weight.unflatten(0, (getattr(self._layer, "groups", 1), -1))
        return view.transpose(1, 2) if isinstance(self._layer, _ConvTransposeNd) else view

    def scaled(self, weight: Tensor, outputs: Tensor | None = None, inputs: Tensor | None = None) -> Tensor:
        """A tensor shaped like the weight, times ``outputs`` ``(C_out,)`` and ``inputs`` ``(C_in,)``; float64."""
        result = weight.double().clone(memory_format=torch.preserve_format)
        view = self.by_group(result)
        kernel = (1,) * (view.dim() - 3)
        if outputs is not None:
            view.mul_(outputs.view(len(view), -1, 1, *kernel))
        if inputs is not None:
            view.mul_(inputs.view(len(view), 1, -1, *kernel))
        return result


_STANDARD = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _is_standard(module: nn.Module) -> bool:
    base = next(kind for kind in (*_STANDARD, type(module)) if isinstance(module, kind))
    kind = type(module)
    methods = ("forward", "_conv_forward", "__call__", "__getattr__")
    return base in _STANDARD and all(getattr(kind, m, None) is getattr(base, m, None) for m in methods)


@torch.no_grad()
def _acts_linearly(module: Any) -> bool:
    """Try whether scales of output and input channels and a bias do what they should, on random numbers."""
    layer = copy.deepcopy(module).double().eval()
    generator = torch.Generator().manual_seed(0)

    def positive(count: int) -> Tensor:
        return (0.5 + torch.rand(count, generator=generator, dtype=torch.float64)).to(layer.weight.device)

    def normal(shape: torch.Size | tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(layer.weight.device)

    spatial: tuple[int, ...] = ()
    if isinstance(layer, _ConvNd):
        spatial = tuple((k - 1) * d + 4 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
    channels = Channels(layer)
    x, ones = normal((2, channels.inputs, *spatial)), (1,) * len(spatial)
    weight, bias = normal(layer.weight.shape), normal((channels.outputs,))
    up, down = positive(channels.outputs), positive(channels.inputs)
    try:
        layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(torch.zeros_like(bias))
        plain = layer(x)
        layer.weight.copy_(channels.scaled(weight, up, down))
        layer.bias.copy_(bias)
        found = layer(x / down.view(-1, *ones))
        return torch.allclose(found, plain * up.view(-1, *ones) + bias.view(-1, *ones))
    except Exception:
        return False


@dataclass(frozen=True)
class Path:
    """What is known of a tensor on its way from one layer to the next."""

    layer: nn.Module
    channels: int
    axes: int | None
    """Spatial axes still there; ``None`` for the output of a linear layer, with the channels last."""
    flat: bool = False
    activation: Activation = "none"
    ceiling: float = float("inf")
    pointwise: bool = True

    def activated(self, by: Activation) -> Path:
        """After a positively homogeneous activation."""
        if by == "leaky" and self.activation != "none":
            return replace(self, pointwise=False)
        return self if self.activation == "relu6" else replace(self, activation=by)

    def clipped(self, ceiling: float) -> Path | None:
        """After a clip from 0 to a ceiling."""
        if ceiling <= 0 or not self.pointwise or self.activation not in ("none", "relu"):
            return None
        return replace(self, activation="relu6", ceiling=ceiling)

    def pooled(self, axes: int) -> Path | None:
        """After something that takes every channel apart, over so many spatial axes."""
        return None if self.flat or self.axes != axes else replace(self, pointwise=False)

    def flattened(self) -> Path:
        """After all axes but the first became one."""
        return replace(self, flat=True, pointwise=False)

    def averaged(self, dims: Any, keepdim: bool) -> Path | None:
        """The mean over ``dims``, which must be all spatial axes."""
        if self.flat or not self.axes or dims is None:
            return None
        rank = self.axes + 2
        found = {d % rank for d in ((dims,) if isinstance(dims, int) else dims)}
        if found != set(range(2, rank)):
            return None
        return replace(self, axes=self.axes if keepdim else 0, pointwise=False)

    def columns(self, second: nn.Module) -> int | None:
        """Inputs of ``second`` for each channel, or ``None`` where they do not correspond."""
        inputs = Channels(second).inputs
        if isinstance(second, nn.Linear):
            if self.axes is None or (self.axes == 0 and not self.flat):
                return 1 if inputs == self.channels else None
            return inputs // self.channels if self.flat and inputs % self.channels == 0 else None
        same = not self.flat and self.axes == len(second.kernel_size)  # type: ignore[arg-type]
        return 1 if same and inputs == self.channels else None


_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_PADS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d)
_POOLS: dict[Any, int] = {
    getattr(nn, f"{kind}Pool{axes}d"): axes
    for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg")
    for axes in (1, 2, 3)
}
_POOL_NAMES = {
    f"{kind}_pool{axes}d": axes for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for axes in (1, 2, 3)
}


def module_step(module: nn.Module, path: Path) -> Path | None:
    """The path after a module, or ``None`` where it does not commute with positive scales of the channels."""
    kind = type(module)
    if isinstance(module, _IDENTITIES) and kind.forward in [base.forward for base in _IDENTITIES]:
        return path
    if kind is nn.ReLU:
        return path.activated("relu")
    if kind in (nn.LeakyReLU, nn.PReLU):
        return path.activated("leaky")
    if isinstance(module, nn.Hardtanh) and kind in (nn.ReLU6, nn.Hardtanh):
        return path.clipped(module.max_val) if module.min_val == 0 else None
    if kind in _PADS:
        return path.pooled(len(module.padding) // 2)  # type: ignore[arg-type]
    if kind in _POOLS and not getattr(module, "return_indices", False):
        return path.pooled(_POOLS[kind])
    if kind is nn.Flatten and module.start_dim == 1 and module.end_dim == -1:
        return path.flattened()
    return None


def function_step(node: fx.Node, path: Path) -> Path | None:
    """The path after a function or method, or ``None`` likewise."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_function" and not _is_of_torch(node.target, name):
        return None

    def argument(index: int, key: str, default: Any = None) -> Any:
        return node.args[index] if len(node.args) > index else node.kwargs.get(key, default)

    base = name.rstrip("_")
    if base in ("contiguous", "dropout", "dropout2d", "dropout3d"):
        return path
    if base == "relu":
        return path.activated("relu")
    if base == "leaky_relu":
        return path.activated("leaky")
    if base == "relu6":
        return path.clipped(6.0)
    if base in ("clamp", "clip", "hardtanh"):
        keys, missing = (("min_val", "max_val"), (-1.0, 1.0)) if base == "hardtanh" else (("min", "max"), (None, None))
        low, high = (argument(i + 1, key, missing[i]) for i, key in enumerate(keys))
        if isinstance(low, (int, float)) and low == 0:
            return path.activated("relu") if high is None else path.clipped(high) if _is_number(high) else None
        return None
    if base in _POOL_NAMES:
        indices = len(node.args) > 6 or node.kwargs.get("return_indices", False)
        return None if indices else path.pooled(_POOL_NAMES[base])
    if base == "mean":
        return path.averaged(argument(1, "dim"), bool(argument(2, "keepdim", False)))
    if base == "flatten":
        return path.flattened() if (argument(1, "start_dim", 0), argument(2, "end_dim", -1)) == (1, -1) else None
    if base in ("view", "reshape"):
        shape = node.args[1:] if len(node.args) > 2 else node.args[1] if len(node.args) == 2 else ()
        rows = isinstance(shape, (tuple, list)) and len(shape) == 2 and shape[1] == -1 and _is_batch(shape[0])
        return path.flattened() if rows else None
    return None


def data_nodes(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Without those that only ask for a shape."""
    return [node for node in nodes if not _asks_shape(node)]


def _asks_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim", "ndimension", "numel")
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    return node.target is operator.getitem and isinstance(node.args[0], fx.Node) and _asks_shape(node.args[0])


def _is_batch(value: Any) -> bool:
    """Whether it is the length of the first axis."""
    if not isinstance(value, fx.Node) or not _asks_shape(value):
        return False
    return value.target in ("size", operator.getitem) and value.args[1:] == (0,)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _is_of_torch(target: Any, name: str) -> bool:
    return any(getattr(module, name, None) is target for module in (torch, F))
