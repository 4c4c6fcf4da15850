"""The layers of a network: modules that own weights, in forward order, and the layout of these weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lloydmax.network.given import network
from lloydmax.network.guard import guarded
from lloydmax.network.norms import is_norm
from lloydmax.network.parameters import WeightBuffer
from lloydmax.network.uses import output_axes
from lloydmax.runtime.dense import not_dense
from lloydmax.runtime.modes import evaluating
from lloydmax.runtime.seeding import undrawn

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_TRANSPOSED = "Conv1D"
"""Name of the class of GPT-2's linear layer, whose weight is (inputs, outputs)."""


@dataclass(frozen=True)
class Layer:
    """A module that owns weights: its full name, itself, the names of its class and base classes, and what a graph that
    reads its weights tells of them, see :func:`~lloydmax.network.uses.output_axes`."""

    name: str
    module: nn.Module
    types: tuple[str, ...]
    axes: Mapping[str, int] = field(default_factory=dict)

    @property
    def numbered(self) -> bool:
        """Whether ranges count it: a convolution or linear layer, subclasses included."""
        return isinstance(self.module, (_ConvNd, nn.Linear))

    @property
    def norm(self) -> bool:
        """Whether it is a normalization layer (told by class, or by a class name that says so)."""
        return is_norm(self.module)

    @property
    def projects(self) -> bool:
        """Whether it has weights that a rule for all means, though ranges do not count it."""
        return not (self.numbered or self.norm) and any(self.meant(leaf) for leaf in self.weights())

    def meant(self, leaf: str) -> bool:
        """Whether a rule for all means this weight: its layout is known, or it is a large one that is kept in a
        buffer."""
        held = self.module._parameters.get(leaf)
        return not self.norm and (isinstance(held, WeightBuffer) or self.outputs(leaf) is not None)

    def outputs(self, leaf: str) -> int | None:
        """The axis of a weight along which its outputs lie; ``None`` where the layout is not known."""
        return None if self.norm else self.axes.get(leaf, output_axis(self.module, leaf))

    def weights(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers of the module itself that are dense, by their names in it."""
        fleeting = self.module._non_persistent_buffers_set
        buffers = {name: buffer for name, buffer in self.module._buffers.items() if name not in fleeting}
        every = {**self.module._parameters, **buffers}
        return {name: held for name, held in every.items() if held is not None and not_dense(held) is None}


def output_axis(module: nn.Module, leaf: str) -> int | None:
    """The axis of a weight along which its outputs lie; ``None`` where the layout is not known.

    It is known of convolutions, linear and bilinear layers, of the projections of ``nn.MultiheadAttention``, of GPT-2's
    transposed linear layer (a class named ``Conv1D``), and of any other module with a matrix ``weight`` and a ``bias``
    that is as long as exactly one of its axes.

    Args:
        module: that owns the weight.
        leaf: name of the weight within the module.
    """
    if isinstance(module, nn.MultiheadAttention):
        return 0 if leaf in _PROJECTIONS else None
    if leaf != "weight":
        return None
    if isinstance(module, (_ConvNd, nn.Linear, nn.Bilinear)):
        return 1 if getattr(module, "transposed", False) else 0
    held = {**module._parameters, **module._buffers}
    weight, bias = held.get("weight"), held.get("bias")
    if weight is None or is_lazy(weight) or weight.dim() != 2:
        return None
    if any(base.__name__ == _TRANSPOSED for base in type(module).__mro__):
        return 1
    fitting = [axis for axis in (0, 1) if bias is not None and tuple(bias.shape) == (weight.shape[axis],)]
    return fitting[0] if len(fitting) == 1 else None


def gates(module: nn.Module, leaf: str) -> int:
    """How many gates the rows of a weight make, one after the other; 0: it is not one of a recurrent layer.

    Args:
        module: that owns the weight.
        leaf: name of the weight within the module.
    """
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or not leaf.startswith(("weight_ih", "weight_hh")):
        return 0
    size: Any = module.hidden_size
    rows = getattr(module, leaf).shape[0]
    return int(rows) // int(size)


def layers_of(model: nn.Module, example_inputs: Any = None) -> list[Layer]:
    """All modules that own parameters or persistent buffers of floats, in forward order (registration order without
    ``example_inputs``).

    Args:
        model: the model; a forward pass in evaluation mode is run when ``example_inputs`` are given.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Raises:
        ModelError: see :func:`~lloydmax.network.given.network`.
    """
    axes = output_axes(network(model))
    every = [
        Layer(name, module, _type_names(module), axes.get(id(module), {})) for name, module in model.named_modules()
    ]
    found = [la for la in every if la.module._parameters or any(t.is_floating_point() for t in la.weights().values())]
    if example_inputs is None:
        return found
    order: dict[int, int] = {}

    def note(module: nn.Module, _: Any) -> None:
        order.setdefault(id(module), len(order))

    hooks = [layer.module.register_forward_pre_hook(note) for layer in found]
    given = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    args, kwargs = ((), example_inputs) if isinstance(example_inputs, dict) else (given, {})
    try:
        with evaluating(model):
            guarded(model, lambda: undrawn(lambda: model(*args, **kwargs)))
    finally:
        for hook in hooks:
            hook.remove()
    return sorted(found, key=lambda layer: order.get(id(layer.module), len(order)))


def _type_names(module: nn.Module) -> tuple[str, ...]:
    own = parametrize.type_before_parametrizations(module)
    names = tuple(base.__name__ for base in own.__mro__ if issubclass(base, nn.Module) and base is not nn.Module)
    return names or ("Module",)
