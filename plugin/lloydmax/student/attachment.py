"""The student: how a compressed weight lives in a model, while it is trained and when it is finished.

While it is trained, a compressed parameter is held by a ``torch.nn.utils.parametrize`` parametrization whose
original is the centroids and whose buffer is the codes. When it is finished, the standard modules become
codebook modules (:mod:`lloydmax.student.layers`); every other module keeps its class and a frozen parametrization.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from lloydmax.codebook.codebook import Codebook
from lloydmax.network.given import network
from lloydmax.network.parameters import demote, owners, promote
from lloydmax.student import kernels
from lloydmax.student.coded import CodedTensor, Frozen
from lloydmax.student.int8.model import Int8Model
from lloydmax.student.layers import CodebookLayer, CodebookTensor, CodesHolder, codebook_layer


class _MeanGradient(torch.autograd.Function):
    """Identity whose gradient for each centroid is the mean, not the sum, over its members."""

    @staticmethod
    def forward(ctx: Any, centroids: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(counts)
        return centroids.view_as(centroids)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (counts,) = ctx.saved_tensors
        return gradient / counts, None


class CodebookWeight(CodesHolder):
    """Parametrization: centroids ``(k,)`` or ``(codebooks, k)``, of blocks ``(..., k, block)`` -> dense weight.

    The centroids learn with the mean gradient of their members (Stock et al. 2020, "And the bit goes down",
    section 3.3), while they require one; those that stay 0 get none.
    """

    counts: Tensor

    def __init__(self, codebook: Codebook) -> None:
        super().__init__(codebook)
        self._fitted = codebook.centroids
        self.register_buffer("counts", _divisors(codebook, codebook.member_counts()), persistent=False)

    def forward(self, centroids: Tensor) -> Tensor:
        """Decode; differentiable with respect to the centroids."""
        if self.kernel is not None and not centroids.requires_grad and not kernels.plainly():
            return CodedTensor(Frozen(self, centroids))
        return self.decoded(self.averaging(centroids))

    def averaging(self, centroids: Tensor) -> Tensor:
        """The centroids as they are; a gradient that goes through what is returned is divided by the members."""
        if centroids.requires_grad and torch.is_grad_enabled():
            averaged: Tensor = _MeanGradient.apply(centroids, self.counts)
            return averaged
        return centroids

    def recode(self, codebook: Codebook) -> Tensor:
        """Take over the codes of a codebook of the same shape, in place; returns how many members each centroid has."""
        members = codebook.member_counts()
        self.take(codebook.codes)
        self.counts.copy_(_divisors(codebook, members))
        return members

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The fitted centroids, when the parametrization is registered."""
        return self._fitted.clone()


def _divisors(codebook: Codebook, members: Tensor) -> Tensor:
    """By what the gradient of each centroid is divided: its members, at least 1; infinity where it does not learn."""
    counts = members.to(torch.float32).clamp_(min=1).masked_fill_(codebook.still(), math.inf)
    return counts.unsqueeze(-1) if codebook.block > 1 else counts


def attach(model: nn.Module, name: str, codebook: Codebook) -> None:
    """Hold parameter ``name`` of ``model``, and every parameter tied to it, by ``codebook`` from now on; see
    :func:`attach_all`."""
    attach_all(model, {name: codebook})


def attach_all(model: nn.Module, codebooks: Mapping[str, Codebook]) -> None:
    """Hold parameters, and every parameter tied to one of them, by codebooks from now on; a buffer becomes a parameter.

    Args:
        model: the student; changed in place.
        codebooks: of weights in the shapes of the parameters, by full name, e.g. ``"layer1.0.conv1.weight"``.
    """
    promote(model, codebooks.keys())
    known = owners(model)
    places = {name: _locate(model, name) for name in codebooks}
    held = {name: known[id(getattr(module, leaf))] for name, (module, leaf) in places.items()}
    for name, codebook in codebooks.items():
        weight, before = CodebookWeight(codebook), getattr(*places[name])
        own = type(before)(
            before.detach(), before.requires_grad
        )  # other models may have the same, which becomes centroids
        for _, module, leaf in held[name]:
            in_buffer = leaf in module._buffers
            (module._buffers if in_buffer else module._parameters)[leaf] = own
            parametrize.register_parametrization(module, leaf, weight, unsafe=True)
            if in_buffer:  # the same tensor is a parameter elsewhere
                chain: Any = module.parametrizations[leaf]  # type: ignore[index]
                chain._buffers["original"] = chain._parameters.pop("original")
            if isinstance(module, nn.RNNBase):
                _refresh_flat_weights(module)
            if isinstance(module, fx.GraphModule):
                setattr(type(module), "__deepcopy__", _copy_of_graph)  # noqa: B010


class Attached(NamedTuple):
    """A parameter of a student that a codebook holds.

    Attributes:
        name: full name of the parameter; tied ones each have theirs.
        module: whose parameter it is.
        leaf: its name in the module.
        weight: the parametrization, with the codes; tied parameters share it.
        centroids: the original of the parametrization, which is trained.
    """

    name: str
    module: nn.Module
    leaf: str
    weight: CodebookWeight
    centroids: Tensor

    def codebook(self) -> Codebook:
        """The present centroids and codes (not copied)."""
        return self.weight.holding(self.centroids)


def attached(model: nn.Module) -> Iterator[Attached]:
    """Every parameter of a student that a codebook holds, while it is trained, in the order of the modules."""
    for prefix, module in model.named_modules():
        if "parametrizations" not in module._modules or not parametrize.is_parametrized(module):
            continue
        for leaf, held in module.parametrizations.items():
            if isinstance(held[0], CodebookWeight):
                name = f"{prefix}.{leaf}" if prefix else leaf
                yield Attached(name, module, leaf, held[0], held.original)


def codebooks(model: nn.Module) -> dict[str, Codebook]:
    """The codebooks that a model holds, trained or finished, by parameter name (tied names each appear).

    Raises:
        ModelError: what is given is not a network.
    """
    network(model)
    found: dict[str, Codebook] = {}
    for name, _, _, weight, centroids in attached(model):
        found[name] = weight.holding(centroids)
    for prefix, module in model.named_modules():
        if isinstance(module, Int8Model):
            found |= {name: value for name, value in module.held() if isinstance(value, Codebook)}
            continue
        if isinstance(module, CodebookLayer) and not (prefix and isinstance(model, Int8Model)):
            for leaf, tensor in module.codebooks.items():
                assert isinstance(tensor, CodebookTensor)
                found[f"{prefix}.{leaf}" if prefix else leaf] = tensor.codebook()
    return found


def recode(model: nn.Module, name: str, codes: Tensor) -> None:
    """Give a parameter of a finished model other codes, in place.

    Args:
        model: that holds a codebook for it.
        name: of the parameter.
        codes: in the shape of its codes.
    """
    prefix, _, leaf = name.rpartition(".")
    module = model.get_submodule(prefix)
    layer = isinstance(module, CodebookLayer) and leaf in module.codebooks
    holder = module.codebooks[leaf] if layer else module.parametrizations[leaf][0]  # type: ignore[index]
    assert isinstance(holder, CodesHolder)
    holder.take(codes)


def finish(model: nn.Module) -> nn.Module:
    """Freeze every codebook, turn the standard modules into codebook modules, and weights of buffers into buffers.

    Modules of exactly the types ``Linear``, ``Conv1d/2d/3d``, ``ConvTranspose1d/2d/3d`` and ``Embedding``
    are replaced; any other module, and one whose ``forward`` was set on the instance, keeps its class and a frozen
    parametrization. Hooks that were registered on a replaced module do not move along.

    Returns:
        ``model``, or its replacement when the model itself is such a module.
    """
    shared: dict[int, CodebookTensor] = {}
    chosen: dict[nn.Module, dict[str, CodebookTensor]] = {}
    for _, module, leaf, weight, centroids in attached(model):
        if id(weight) not in shared:
            shared[id(weight)] = CodebookTensor(weight.holding(centroids))
        centroids.requires_grad_(False)
        chosen.setdefault(module, {})[leaf] = shared[id(weight)]
    replaced: dict[nn.Module, nn.Module] = {}
    for module, tensors in chosen.items():
        if "forward" not in vars(module) and (layer := codebook_layer(module, tensors)) is not None:
            replaced[module] = layer
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replaced:
                parent._modules[name] = replaced[child]
    finished = replaced.get(model, model)
    demote(finished)
    return finished


def released(model: nn.Module, gradients: Mapping[str, bool]) -> nn.Module:
    """:func:`finish`, in evaluation mode, with gradients for the parameters that had them.

    Args:
        model: changed in place.
        gradients: ``requires_grad`` of the parameters that are left, by name.
    """
    finished = finish(model).eval()
    for name, parameter in finished.named_parameters():
        parameter.requires_grad_(gradients.get(name, False))
        parameter.grad = None
    return finished


def separate(student: nn.Module, teacher: nn.Module) -> None:
    """Give the student, in place, copies of all modules, parameters and buffers that it has in common with its teacher.

    Hosts that prepare a model in place leave it and the prepared one in common; training one would train the other.
    """
    if student is teacher:
        return
    theirs = {id(module) for module in teacher.modules()}
    tensors = {id(tensor) for tensor in (*teacher.parameters(), *teacher.buffers())}
    copies: dict[int, Any] = {}
    for name, module in list(student.named_modules(remove_duplicate=False)):
        if id(module) in theirs and (module._parameters or module._buffers):
            student.set_submodule(name, copy.deepcopy(module, copies))
    for module in student.modules():
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in holders:
            for leaf, tensor in list(held.items()):
                if tensor is not None and id(tensor) in tensors:
                    held[leaf] = copy.deepcopy(tensor, copies)


def set_cache(model: nn.Module, enabled: bool) -> nn.Module:
    """Keep decoded weights in memory (dense speed, the default) or decode at every use (small memory).

    The decoded weight is in no state dict, file, pickle, copy or exported program. Decoding at every use never holds
    more than one decoded layer, of linear layers 1 MiB, of embeddings the rows that are looked up; a large linear
    layer gives the same up to the order of the sums.

    Raises:
        ModelError: what is given is not a network.
    """
    for module in network(model).modules():
        if isinstance(module, CodesHolder):
            module.set_cache(bool(enabled))
    return model


def _locate(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    prefix, _, leaf = name.rpartition(".")
    return model.get_submodule(prefix), leaf


def _copy_of_graph(module: fx.GraphModule, memo: dict[int, Any]) -> fx.GraphModule:
    """A deep copy that keeps the parametrizations of a graph module; its own one does not."""
    kind: Any = type(module)
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    own["__qualname__"] = kind.__qualname__
    copied = object.__new__(type(kind)(kind.__name__, kind.__bases__, own))  # a graph that changes changes its class
    memo[id(module)] = copied
    copied.__dict__.update(copy.deepcopy(module.__dict__, memo))
    return copied


def _refresh_flat_weights(module: nn.RNNBase) -> None:
    """Recurrent layers run from a list of their weights; refill it with the decoded ones before every use."""
    if not any(hook is _refill for hook in module._forward_pre_hooks.values()):
        module.register_forward_pre_hook(_refill)


def _refill(module: nn.Module, _: Any) -> None:
    module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]  # type: ignore[assignment, union-attr]
