"""The layers of a network: modules that own weights, in forward order, and the layout of these weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lloydmax.codebook.layout import FLOAT_DTYPES
from lloydmax.network.given import network
from lloydmax.network.guard import guarded
from lloydmax.network.norms import is_norm
from lloydmax.network.parameters import WeightBuffer
from lloydmax.network.products import Along, products
from lloydmax.network.routers import routers
from lloydmax.network.uses import output_axes
from lloydmax.runtime.dense import not_dense
from lloydmax.runtime.modes import evaluating
from lloydmax.runtime.seeding import undrawn

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_TRANSPOSED = "Conv1D"
"""Name of the class of GPT-2's linear layer, whose weight is (inputs, outputs)."""
_STANDARD = (_ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention)
"""Classes of which it is known how they use their weights."""
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_AROUND = 3
"""Modules within each other whose forward methods are read for a weight."""
SMALLEST = 1024
"""Weights of a table, such as an embedding, that is worth a codebook."""


@dataclass(frozen=True)
class Layer:
    """A module that owns weights.

    Attributes:
        name: full name.
        module: itself.
        types: names of its class and base classes.
        uses: what those who use its weights tell of them, by their names in it: graphs, see
            :func:`~lloydmax.network.uses.output_axes`, and forward methods, see
            :func:`~lloydmax.network.products.products`.
        routes: whether it chooses the experts that a token goes to.
    """

    name: str
    module: nn.Module
    types: tuple[str, ...]
    uses: Mapping[str, Along] = field(default_factory=dict)
    routes: bool = False

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
        """Whether a rule for all means this weight: inputs are multiplied by it, it is a table of 1024 numbers or more,
        such as an embedding, or a large one that is kept in a buffer."""
        held = self.module._parameters.get(leaf)
        if self.norm or self.routes:
            return False
        return isinstance(held, WeightBuffer) or self.multiplies(leaf) or self._is_table(leaf, held)

    def multiplies(self, leaf: str) -> bool:
        """Whether it is known that inputs are multiplied by this weight."""
        return self.outputs(leaf) is not None and not isinstance(self.module, (nn.Embedding, nn.EmbeddingBag))

    def outputs(self, leaf: str) -> Along | None:
        """Where the outputs of a weight lie, of an embedding its rows; ``None``: the layout is not known."""
        if self.norm:
            return None
        axis = output_axis(self.module, leaf)
        guess = None if axis is None else Along(axis)
        return guess if isinstance(self.module, _STANDARD) and guess else self.uses.get(leaf, guess)

    def _is_table(self, leaf: str, held: Tensor | None) -> bool:
        if held is None or is_lazy(held) or isinstance(self.module, _RECURRENT) or is_bias(leaf):
            return False
        several = sum(size > 1 for size in held.shape) > 1
        return several and held.numel() >= SMALLEST and held.dtype in FLOAT_DTYPES

    def weights(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers of the module itself that are dense, by their names in it."""
        fleeting = self.module._non_persistent_buffers_set
        buffers = {name: buffer for name, buffer in self.module._buffers.items() if name not in fleeting}
        every = {**self.module._parameters, **buffers}
        return {name: held for name, held in every.items() if held is not None and not_dense(held) is None}


def output_axis(module: nn.Module, leaf: str) -> int | None:
    """The axis of a weight along which its outputs lie; ``None`` where the layout is not known.

    It is known of convolutions, linear and bilinear layers, embeddings (their rows), of the projections of
    ``nn.MultiheadAttention``, of GPT-2's transposed linear layer (a class named ``Conv1D``), and of any other module
    with a matrix ``weight`` and a ``bias`` that is as long as exactly one of its axes.

    Args:
        module: that owns the weight.
        leaf: name of the weight within the module.
    """
    if isinstance(module, nn.MultiheadAttention):
        return 0 if leaf in _PROJECTIONS else None
    if leaf != "weight":
        return None
    if isinstance(module, (_ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag)):
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
    if not isinstance(module, _RECURRENT) or not leaf.startswith(("weight_ih", "weight_hh")):
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
    uses = output_axes(network(model))
    for module, (_, read) in _read(model).items():
        uses.setdefault(id(module), {}).update(read)
    routing = routers(model, uses)
    every = [
        Layer(name, module, _type_names(module), uses.get(id(module), {}), module in routing)
        for name, module in model.named_modules()
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


def is_bias(leaf: str) -> bool:
    """Whether a parameter of this name is a bias, or those of all experts."""
    return leaf.startswith("bias") or leaf.endswith("_bias")


def multiplied(model: nn.Module) -> dict[str, tuple[str, Along]]:
    """What a forward method multiplies its inputs by, of modules that are not standard ones: full name of the weight ->
    full name of the module whose method does it, and where the outputs lie.

    Args:
        model: uncompressed.
    """
    names = {module: name for name, module in model.named_modules()}
    return {
        f"{names[module]}.{leaf}".lstrip("."): (names[user], along)
        for module, (user, known) in _read(model).items()
        for leaf, along in known.items()
    }


def _read(model: nn.Module) -> dict[nn.Module, tuple[nn.Module, dict[str, Along]]]:
    """What forward methods tell of the weights of modules that are not standard ones, and whose: their own, else that
    of the module around them, or around that."""
    around = {child: module for module in model.modules() for child in module.children()}
    told: dict[nn.Module, dict[tuple[int, str], Along]] = {}
    found: dict[nn.Module, tuple[nn.Module, dict[str, Along]]] = {}
    for module in model.modules():
        if isinstance(module, (*_STANDARD, *_RECURRENT, fx.GraphModule)) or is_norm(module):
            continue
        user: nn.Module | None = module if _has_matrices(module) else None
        for _ in range(_AROUND):
            if user is None or module in found:
                break
            if user not in told:
                told[user] = products(user)
            if known := {leaf: one for (key, leaf), one in told[user].items() if key == id(module)}:
                found[module] = user, known
            user = around.get(user)
    return found


def _has_matrices(module: nn.Module) -> bool:
    held = [one for one in module._parameters.values() if one is not None and not is_lazy(one)]
    return any(one.dim() > 1 for one in held)


def _type_names(module: nn.Module) -> tuple[str, ...]:
    own = parametrize.type_before_parametrizations(module)
    names = tuple(base.__name__ for base in own.__mro__ if issubclass(base, nn.Module) and base is not nn.Module)
    return names or ("Module",)
