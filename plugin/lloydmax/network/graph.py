"""The traced graph of a model: which batch norm follows which layer, and which layers can trade scales.

A *layer* here is a convolution, transposed convolution or linear layer whose weight and bias belong to it alone and
that a forward pass calls once. Layers with a forward of their own count if they are linear in weight and bias, which
is tried out on random numbers: one that pads by itself is, one that standardizes its weight is not.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from lloydmax.errors import RecoveryError
from lloydmax.network.channels import (
    Activation,
    Channels,
    Path,
    data_nodes,
    function_step,
    is_linear_layer,
    module_step,
)
from lloydmax.network.parameters import owners
from lloydmax.network.tracing import traced
from lloydmax.runtime.modes import evaluation_mode
from lloydmax.runtime.seeding import undrawn

_LAYERS = (nn.Linear, _ConvNd, _BatchNorm)


@dataclass(frozen=True)
class Link:
    """Two layers between which every channel can be scaled, up in the first and down in the second.

    Attributes:
        first: module name of the layer whose output channels are meant.
        second: module name of the layer that alone reads them.
        activation: what lies between: ``none``, ``relu``, ``leaky`` (LeakyReLU, PReLU) or ``relu6`` (any clip from 0).
        ceiling: where a ``relu6`` clips; infinite for the others, which are positively homogeneous.
        columns: inputs of the second layer for each output channel of the first (more than 1 after a flatten).
        pointwise: nothing but the activation lies between: a constant passes to the second layer unchanged.
    """

    first: str
    second: str
    activation: Activation = "none"
    ceiling: float = float("inf")
    columns: int = 1
    pointwise: bool = True


def trace(model: nn.Module) -> fx.Graph:
    """The operations of the model in evaluation mode, in order; the model is not changed.

    Layers, modules of ``torch.nn``, and those that own parameters or buffers and have no layers inside are single
    nodes named by ``target``; everything else is traced through. Where that fails, all modules that own parameters or
    buffers are single nodes, and then all without children, too. Arguments of the forward method that have a default
    keep it.

    Raises:
        RecoveryError: the forward method decides by the values of its inputs, or does what cannot be traced.
    """
    shared = {id(t): t for t in chain(model.parameters(), model.buffers())}
    failure: Exception | None = None
    try:
        for owners_whole, childless_whole in ((False, False), (True, False), (True, True)):
            skeleton = copy.deepcopy(model, dict(shared))
            with evaluation_mode(skeleton), torch.no_grad():
                try:
                    tracer = _Tracer(owners_whole, childless_whole)
                    return undrawn(partial(traced, tracer, skeleton, _defaults(skeleton)))
                except Exception as error:
                    failure = error
                finally:  # what torch.fx has seen refers to itself, and would keep the tensors
                    for module in skeleton.modules():
                        module._parameters.clear()
                        module._buffers.clear()
        reason = str(failure).partition("\n")[0] or type(failure).__name__
        raise RecoveryError(
            f"{type(model).__name__} cannot be traced: {reason}. Which layer feeds which is told from one symbolic "
            "run, in which inputs have no values: a forward method that branches on them has to be split, or the step "
            "left out"
        ) from failure
    finally:
        failure = None  # it knows this frame, and that all that called it, with what they hold


def conv_bn_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """:attr:`Network.pairs` of a model."""
    return Network(model).pairs


def chains(model: nn.Module) -> tuple[list[Link], dict[str, str]]:
    """:attr:`Network.links` and :attr:`Network.ends` of a model."""
    network = Network(model)
    return network.links, network.ends


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, owners_whole: bool, childless_whole: bool) -> None:
        super().__init__()
        self.owners_whole = owners_whole
        """Whether modules that own tensors are not looked into, even if they have layers inside."""
        self.childless_whole = childless_whole
        """Whether modules without children are not looked into, even if they own nothing."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        if isinstance(module, _LAYERS) or parametrize.is_parametrized(module) or super().is_leaf_module(module, name):
            return True
        if module._parameters or module._buffers:
            return self.owners_whole or not any(isinstance(inner, _LAYERS) for inner in module.modules())
        return self.childless_whole and not module._modules


def _defaults(model: nn.Module) -> dict[str, Any] | None:
    parameters = inspect.signature(model.forward).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    return given or None


class Network:
    """A model as a graph of operations, traced once: which layer feeds which batch norm, and which other layer.

    Args:
        model: not changed; where its structure changes, it is traced anew.
        tied: layers that share a weight with others can be changed, too.

    Attributes:
        graph: the operations, see :func:`trace`.

    Raises:
        RecoveryError: the model cannot be traced.
    """

    def __init__(self, model: nn.Module, tied: bool = False) -> None:
        self._model, self._tied, self.graph = model, tied, trace(model)
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._calls: dict[str, list[fx.Node]] = {}
        for node in self.graph.nodes:
            if node.op == "call_module":
                self._calls.setdefault(node.target, []).append(node)

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """``(layer, batch norm)`` by name, in forward order, wherever the batch norm can be folded into the layer.

        That takes a layer whose only consumer is a batch norm with running statistics that serves nothing else. A batch
        norm after a linear layer is taken to see ``(N, features)``.
        """
        return list(self._pairs())

    @property
    def links(self) -> list[Link]:
        """The links of all chains of layers, in forward order.

        Between two layers only operations are allowed that treat channels apart and commute with positive scales:
        identity, dropout, ReLU, LeakyReLU, PReLU, zero padding, pooling, mean over positions, flatten; or one clip
        (ReLU6) first, which does so as long as nothing reaches its ceiling. A batch norm has to be folded before.
        """
        return [found for found in self._followed.values() if isinstance(found, Link)]

    @property
    def ends(self) -> dict[str, str]:
        """What the layers that have no link feed instead, by module name, for messages."""
        return {name: found for name, found in self._followed.items() if not isinstance(found, Link)}

    @cached_property
    def _followed(self) -> dict[str, Link | str]:
        return {name: self._follow(name, node) for name, node in self._layers.items()}

    @cached_property
    def _layers(self) -> dict[str, fx.Node]:
        """The layers, by module name, with their only call."""
        return {
            name: nodes[0]
            for name, nodes in self._calls.items()
            if self._private(name) and is_linear_layer(self._modules[name]) and self._takes_one_tensor(nodes[0])
        }

    @cached_property
    def _shared(self) -> set[int]:
        """Identities of modules that something else than a node of their own may use."""
        hidden = {id(m) for name in self._calls for m in self._modules[name].modules() if m is not self._modules[name]}
        for node in self.graph.nodes:
            if node.op == "get_attr":
                hidden.add(id(self._modules.get(node.target.rpartition(".")[0])))
        return hidden

    @cached_property
    def _owners(self) -> dict[int, list[tuple[str, nn.Module, str]]]:
        return owners(self._model)

    def _private(self, name: str) -> bool:
        module = self._modules[name]
        parameters = [p for p in module._parameters.values() if p is not None]
        tied = not self._tied and any(len(self._owners[id(p)]) > 1 for p in parameters)
        return len(self._calls[name]) == 1 and not tied and id(module) not in self._shared

    @staticmethod
    def _takes_one_tensor(node: fx.Node) -> bool:
        return len(data_nodes(node.all_input_nodes)) == 1 and isinstance(_input_of(node), fx.Node)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for name, node in self._layers.items():
            users = data_nodes(node.users)
            if len(users) != 1 or users[0].op != "call_module" or _input_of(users[0]) is not node:
                continue
            target = str(users[0].target)
            norm = self._modules[target]
            if isinstance(norm, _BatchNorm) and self._private(target) and _is_foldable(norm, self._modules[name]):
                yield name, target

    def _follow(self, name: str, node: fx.Node) -> Link | str:
        """The link that starts at a layer, or what stands where the chain breaks."""
        first = self._modules[name]
        state = Path(first, Channels(first).outputs, len(getattr(first, "kernel_size", ())) or None)
        while True:
            users = data_nodes(node.users)
            if len(users) != 1:
                return f"{len(users)} consumers" if users else "nothing"
            node, before = users[0], node
            if node.op == "output":
                return "the output"
            if data_nodes(node.all_input_nodes) != [before] or not node.args or node.args[0] is not before:
                return _name_of(node, self._modules)
            if node.op == "call_module" and isinstance(self._modules[str(node.target)], (nn.Linear, _ConvNd)):
                second = self._modules[str(node.target)]
                if node.target not in self._layers:
                    return f"{node.target}, which cannot be changed"
                columns = state.columns(second)
                if columns is None:
                    return f"{node.target}, which mixes channels with positions"
                return Link(name, str(node.target), state.activation, state.ceiling, columns, state.pointwise)
            after = module_step(self._modules[str(node.target)], state) if node.op == "call_module" else None
            if node.op in ("call_function", "call_method"):
                after = function_step(node, state)
            if after is None:
                return _name_of(node, self._modules)
            state = after


def _input_of(node: fx.Node) -> Any:
    """What a layer or norm is called with, by position or by name."""
    return node.args[0] if node.args else node.kwargs.get("input")


def _name_of(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if node.op == "call_module":
        return f"{type(modules[str(node.target)]).__name__} {node.target}"
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", node.name)


def _is_foldable(norm: _BatchNorm, layer: nn.Module) -> bool:
    """Whether in evaluation mode it is a fixed scale and shift of each channel of the layer, and nothing more."""
    standard = type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    fixed = norm.running_mean is not None and norm.running_var is not None and not parametrize.is_parametrized(norm)
    return standard and fixed and norm.num_features == Channels(layer).outputs
