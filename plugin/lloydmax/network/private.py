"""A model as a tree of modules of one's own that shares the memory of its tensors, and nothing else.

Hooks, modes and ``requires_grad`` of such a tree are nobody else's; what a model was wrapped in is left out of it, so
that names are those of the bare model.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from lloydmax.errors import ModelError
from lloydmax.network.baking import bake, computed_last
from lloydmax.network.buffers import weights_in_buffers
from lloydmax.network.copying import deep_copy
from lloydmax.network.given import network
from lloydmax.network.parameters import WeightBuffer, promote
from lloydmax.network.rebuilding import rebuild
from lloydmax.runtime.dense import not_dense
from lloydmax.runtime.text import printable

SMALL = 1 << 16
"""Bytes up to which a buffer is copied: what a forward pass may write, counters and the like, is small."""
_INNER = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
"""Classes of torch that wrap a model, with the attribute that holds it."""
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_PLAIN = (nn.Parameter, WeightBuffer)
_private: WeakKeyDictionary[nn.Module, ref[nn.Module]] = WeakKeyDictionary()


def unwrapped(model: nn.Module) -> nn.Module:
    """What is inside ``DataParallel``, ``DistributedDataParallel``, ``torch.compile``, ``AveragedModel`` and torch's
    ``checkpoint_wrapper``, however nested; the model itself where it is not wrapped."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def refuse_scripts(model: nn.Module) -> None:
    """Refuse a model whose layers cannot be replaced in place.

    Raises:
        ModelError: see :func:`~lloydmax.network.given.network`; a ScriptModule.
    """
    _refuse_scripts(unwrapped(network(model)))


def bare(model: nn.Module) -> nn.Module:
    """The model without its wrapper, changed in place to be without those of its submodules, too."""
    model = unwrapped(model)
    waiting = [model]
    while waiting:
        parent = waiting.pop()
        for name, child in parent._modules.items():
            if child is not None and (inner := unwrapped(child)) is not child:
                parent._modules[name] = inner
        waiting += [child for child in parent._modules.values() if child is not None]
    return model


def private(model: nn.Module, runs: bool = True) -> nn.Module:
    """A private tree of a model: what is done to its modules is done to no one else's.

    Parameters and buffers share the memory of the caller's (buffers of up to 64 KiB, and tensors that were made in
    inference mode, are copies). All its modules are in evaluation mode. What modules compute from other parameters is
    baked, see :mod:`lloydmax.network.baking`; weights in buffers are parameters in it, see
    :mod:`lloydmax.network.buffers`, and operations of exported programs are layers, see
    :mod:`lloydmax.network.rebuilding`. A tree that this function made is given back as it is.

    Args:
        model: not changed; may be wrapped, see :func:`unwrapped`.
        runs: whether its outputs count, so that its batch norms have to give numbers.

    Raises:
        ModelError: no network, see :func:`~lloydmax.network.given.network`; a tensor on the meta device, a sparse or
            quantized parameter, statistics of a batch norm that are NaN, a ScriptModule, parameters in shards, or
            something that cannot be copied; the message names it.
    """
    if network(model) in _private:
        return model
    bare = unwrapped(model)
    refuse(bare, runs)
    with torch.inference_mode(False), torch.no_grad():
        made = _copied(bare, dict(_shared(bare)))
    theirs = {id(module) for module in bare.modules()}
    if common := [name or "the model" for name, module in made.named_modules() if id(module) in theirs]:
        raise ModelError(f"{common[0]} is shared by copies of the model (its __deepcopy__ gives itself): copy it there")
    rebuild(made)
    made.eval()
    bake(made)
    promote(made, weights_in_buffers(made))
    _private[made] = ref(model)
    return made


def own(tree: nn.Module, sharing: Collection[str] = ()) -> nn.Module:
    """A copy of a private tree with memory of its own, such as a student.

    Args:
        tree: not changed.
        sharing: names of parameters that keep the memory of the tree's, for they are about to be replaced.
    """
    memo: dict[int, Any] = {}
    for name in sharing:
        parameter = tree.get_parameter(name)
        memo[id(parameter)] = type(parameter)(parameter.data, parameter.requires_grad)  # .data: a version of its own
    for module in tree.modules():
        for held in (*module._parameters.values(), *module._buffers.values()):
            if held is not None and held.layout != torch.strided:
                memo[id(held)] = held.detach().clone()
    made: nn.Module = deep_copy(tree, memo)
    return made


def original(model: nn.Module) -> nn.Module:
    """The caller's model that a private tree stands for; any other model itself."""
    found = _private[model]() if model in _private else None
    return model if found is None else found


def refuse(model: nn.Module, runs: bool) -> None:
    """Refuse a model that cannot be compressed, by the name of what is in the way.

    Args:
        model: without its wrapper.
        runs: see :func:`private`.

    Raises:
        ModelError: see :func:`private`.
    """
    _refuse_scripts(model)
    for name, module in model.named_modules():
        if any(base.__module__.startswith("torch.distributed.fsdp") for base in type(module).__mro__):
            raise ModelError(
                f"{name or 'the model'} is sharded (FSDP), and weights are clustered as a whole: load its full state "
                "dict (get_model_state_dict, full_state_dict=True; accelerator.get_state_dict) into the bare model "
                "on each process, and pass that"
            )
        if runs and (broken := _broken_statistics(module)):
            raise ModelError(
                f"{f'{name}.{broken}'.lstrip('.')}, so that the model gives no numbers: repair it, as "
                "lloydmax.renormalize(model, data) does"
            )
        for leaf, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if isinstance(tensor, nn.Parameter) and type(tensor) not in _PLAIN and not is_lazy(tensor):
                raise ModelError(
                    f"{f'{name}.{leaf}'.lstrip('.')} is a {type(tensor).__name__}, not a plain parameter: convert it, "
                    "or pass the model as it was before"
                )
            if isinstance(tensor, nn.Parameter) and (cure := not_dense(tensor)):
                raise ModelError(f"{f'{name}.{leaf}'.lstrip('.')} is {cure}")
            if tensor is not None and tensor.is_meta and getattr(module, "_hf_hook", None) is not None:
                raise ModelError(
                    f"{f'{name}.{leaf}'.lstrip('.')} was offloaded by accelerate, and is not in memory: load the model "
                    "without device_map (or with device_map='cpu')"
                )
            if tensor is not None and tensor.is_meta:
                raise ModelError(
                    f"{f'{name}.{leaf}'.lstrip('.')} is on the meta device, it has no values: load the weights first "
                    "(model.to_empty(device='cpu'), then load_state_dict)"
                )


def _refuse_scripts(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{name or 'the model'} is a ScriptModule ({_script_name(module)}), whose layers cannot be told apart: "
                "pass the nn.Module that it was made from"
            )


def _broken_statistics(norm: nn.Module) -> str | None:
    """The running statistics of a batch norm for which it gives NaN or infinities, whatever it is given."""
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        return None
    if is_lazy(norm.running_mean) or norm.running_var.is_meta:
        return None
    for leaf, odd in (
        ("running_mean", ~torch.isfinite(norm.running_mean)),
        ("running_var", norm.running_var.isnan() | (norm.running_var + norm.eps < 0)),
    ):
        if channels := int(odd.sum()):
            return f"{leaf} is NaN, infinite or negative in {channels:,} of its {len(odd):,} channels"
    return None


def _inside(model: nn.Module) -> nn.Module | None:
    """What a wrapper wraps; ``None``: this is not a wrapper."""
    kind = type(model)
    if not (isinstance(model, _WRAPPERS) or kind.__module__.startswith(("torch._dynamo", "torch.distributed"))):
        return None
    names = (attribute for base in kind.__mro__ if (attribute := _INNER.get(base.__name__)))
    inner = getattr(model, next(names, ""), None)
    return inner if isinstance(inner, nn.Module) else None


def _shared(model: nn.Module) -> Iterator[tuple[int, Any]]:
    """For a deep copy: what stands for each tensor of the model, by identity. Buffers that are in the same memory as a
    parameter, or as each other, are one."""
    registered = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    places: dict[Any, Tensor] = {}
    for parameter in model.parameters():
        if not is_lazy(parameter):
            made = type(parameter)(_alias(parameter), parameter.requires_grad)
            places.setdefault(_place(parameter), made)
            yield id(parameter), made
    parameters = {id(parameter) for parameter in model.parameters()}
    for module in model.modules():
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in parameters and not is_lazy(buffer):
                own = buffer.detach().clone() if _is_small(buffer) else _alias(buffer)
                yield id(buffer), places.setdefault(_place(buffer), own)
        for value in vars(module).values():
            if isinstance(value, Tensor) and id(value) not in registered:
                yield id(value), _alias(value)
        for tensor in computed_last(module):
            yield id(tensor), tensor.detach()


def _place(tensor: Tensor) -> Any:
    """What tensors have in common that are one but for the Python object; of vectors, and of what has no place in
    memory, the object."""
    plain = type(tensor) in (Tensor, *_PLAIN) and not_dense(tensor) is None and not tensor.is_meta
    if not plain or tensor.dim() < 2 or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _is_small(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.nbytes <= SMALL


def _alias(tensor: Tensor) -> Tensor:
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    wrappers = [module for module in model.modules() if _inside(module) is not None]
    try:
        for wrapper in reversed(wrappers):
            memo[id(wrapper)] = deep_copy(unwrapped(wrapper), memo)
        made: nn.Module = deep_copy(model, memo)
        return made
    except RecursionError:
        raise ModelError(
            "the model, or something in it, lies so deep in itself that Python cannot copy it: put layers side by "
            "side, or call sys.setrecursionlimit"
        ) from None
    except Exception as error:
        raise ModelError(
            f"{_uncopyable(model, memo)} cannot be copied ({printable(f'{type(error).__name__}: {error}', 300)}): "
            "remove it from the model, or give its class a __deepcopy__"
        ) from error


def _uncopyable(model: nn.Module, memo: dict[int, Any]) -> str:
    """What cannot be copied, as precisely as can be told."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_modules", "_parameters", "_buffers"):
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                return f"{f'{name}.{attribute}'.lstrip('.')} ({type(value).__name__})"
    return type(model).__name__


def _script_name(module: Any) -> str:
    return str(getattr(module, "original_name", type(module).__name__))
