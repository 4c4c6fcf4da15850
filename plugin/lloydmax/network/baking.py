"""Parameters that a module computes from others, baked: computed once, and ordinary parameters from then on.

These are parametrizations (``torch.nn.utils.parametrize``, with which ``parametrizations.weight_norm``,
``spectral_norm``, ``orthogonal`` and a user's own are made) and what hooks computed before there were any: weight norm,
spectral norm, and the masks of ``torch.nn.utils.prune``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook
from torch.nn.utils.weight_norm import WeightNorm

from lloydmax.network.copying import deep_copy
from lloydmax.runtime.modes import evaluation_mode

_SOURCES: dict[type, tuple[str, ...]] = {
    WeightNorm: ("_g", "_v"),
    SpectralNorm: ("_orig", "_u", "_v"),
    BasePruningMethod: ("_orig", "_mask"),
}
"""The tensors that a hook computes from, as what it appends to the name of the result."""


def computed(model: nn.Module) -> dict[str, str]:
    """The parameters and buffers that a model computes from others, by name: by what."""
    return {
        f"{prefix}.{leaf}" if prefix else leaf: how
        for prefix, module in model.named_modules()
        for leaf, how in _computed(module).items()
    }


def computed_last(module: nn.Module) -> Iterator[Tensor]:
    """The tensors with a history that a module keeps as plain attributes, which a deep copy refuses."""
    for value in vars(module).values():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, Tensor) and item.grad_fn is not None:
                yield item


def copied(model: nn.Module, share: bool = False) -> nn.Module:
    """A copy, also of modules that keep what they computed last with its history.

    Args:
        model: not changed.
        share: whether the copy has the same parameters and buffers.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        held = (*module._parameters.values(), *module._buffers.values()) if share else ()
        memo |= {id(tensor): tensor for tensor in held if tensor is not None}
        memo |= {id(tensor): tensor.detach() for tensor in computed_last(module)}
    return deep_copy(model, memo)


@torch.no_grad()
def bake(model: nn.Module, names: Collection[str] | None = None) -> None:
    """Make what is computed ordinary parameters and buffers, in place, with the values of evaluation mode.

    Modules are changed, tensors are not.

    Args:
        model: whose modules belong to nobody else.
        names: those of :func:`computed` that are meant, all of each module; ``None``: all.
    """
    for prefix, module in list(model.named_modules()):
        leaves = _computed(module)
        if leaves and (names is None or any((f"{prefix}.{leaf}" if prefix else leaf) in names for leaf in leaves)):
            with evaluation_mode(module):
                _bake_parametrizations(module, leaves)
                _bake_hooks(module, leaves)


def _computed(module: nn.Module) -> dict[str, str]:
    found = {}
    if parametrize.is_parametrized(module):
        for leaf, chain in _chains(module):
            if not any(isinstance(getattr(each, "codes", None), Tensor) for each in chain):
                found[leaf] = " and ".join(type(each).__name__.lstrip("_") for each in chain)
    sources = {hook_name + end for hook_name, ends in _hooks(module) for end in ends}
    for hook in module._forward_pre_hooks.values():
        if (kind := _kind(hook)) is not None and _name(hook) not in sources:
            found[_name(hook)] = type(hook).__name__ if kind is BasePruningMethod else kind.__name__
    return found


def _bake_parametrizations(module: nn.Module, leaves: Collection[str]) -> None:
    if not parametrize.is_parametrized(module) or not {leaf for leaf, _ in _chains(module)} <= set(leaves):
        return
    values = [
        (leaf, getattr(module, leaf).detach().clone(), [*chain._parameters.values()]) for leaf, chain in _chains(module)
    ]
    # not remove_parametrizations, which changes the class: other copies of the module have the same one
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]
    for leaf, value, sources in values:
        _put(module, leaf, value, sources)


def _bake_hooks(module: nn.Module, leaves: Collection[str]) -> None:
    ours = {key: hook for key, hook in module._forward_pre_hooks.items() if _kind(hook) is not None}
    if not ours:
        return
    for hook in ours.values():
        hook(module, ())
    gone = [name + end for name, ends in _hooks(module) for end in ends]
    sources = [module._parameters[name] for name in gone if name in module._parameters]
    values = {leaf: module.__dict__[leaf].detach().clone() for leaf in leaves if leaf in module.__dict__}
    module._forward_pre_hooks = OrderedDict(
        (key, hook) for key, hook in module._forward_pre_hooks.items() if key not in ours
    )
    module._state_dict_hooks = OrderedDict(
        (key, hook) for key, hook in module._state_dict_hooks.items() if not isinstance(hook, SpectralNormStateDictHook)
    )
    module._load_state_dict_pre_hooks = OrderedDict(
        (key, hook)
        for key, hook in module._load_state_dict_pre_hooks.items()
        if not isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook)
    )
    for name in gone:
        for held in (module._parameters, module._buffers, module.__dict__):
            held.pop(name, None)
    for leaf, value in values.items():
        _put(module, leaf, value, sources)


def _chains(module: Any) -> list[tuple[str, Any]]:
    """The parametrized tensors of a module, and what each is computed by."""
    return list(module.parametrizations.items())


def _put(module: nn.Module, leaf: str, value: Tensor, sources: Collection[Tensor | None]) -> None:
    """``setattr``, because recurrent layers keep lists of their weights, too."""
    if sources:
        setattr(module, leaf, nn.Parameter(value, any(s is not None and s.requires_grad for s in sources)))
    else:
        module.register_buffer(leaf, value)


def _kind(hook: Any) -> type | None:
    return next((kind for kind in _SOURCES if isinstance(hook, kind)), None)


def _hooks(module: nn.Module) -> list[tuple[str, tuple[str, ...]]]:
    """Name of the result and ends of the sources, of every hook that computes a tensor."""
    found = ((hook, _kind(hook)) for hook in module._forward_pre_hooks.values())
    return [(_name(hook), _SOURCES[kind]) for hook, kind in found if kind is not None]


def _name(hook: Any) -> str:
    name: str = hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name
    return name
