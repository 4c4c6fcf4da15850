"""TODO docstring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import CheckpointError
from lloydmax.format.entries import DTYPES
from lloydmax.student.codebooks import CodebookWeight
from lloydmax.student.int8.model import IntegerModel
from lloydmax.student.layers import CodebookLayer, CodebookTensor, CodesHolder

if TYPE_CHECKING:
    pass


def contents(model: nn.Module) -> tuple[dict[str, Tensor | Codebook], dict[str, str]]:
    """Everything that a file keeps of a model.

    Returns:
        Each parameter and persistent buffer under its first name (not copied), compressed ones as
        :class:`~lloydmax.Codebook`; and the further names of tied ones -> their first name.
    """
    values: dict[str, Tensor | Codebook] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, value in _held(model):
        key = id(value.codes if isinstance(value, Codebook) else value)
        known = first.setdefault(key, name)
        if known != name and _same(values[known], value):
            tied[name] = known
        else:
            values[name] = value
    return values, tied


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor | Codebook]]:
    if isinstance(model, IntegerModel):
        yield from model.held()
        return
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, CodesHolder) or _holds_codes(module):
            continue
        dot = f"{prefix}." if prefix else ""
        if parametrize.is_parametrized(module):
            for leaf, held in module.parametrizations.items():
                if _holds_codes(held):
                    yield dot + leaf, held[0].holding(held.original)
        if isinstance(module, CodebookLayer):
            for leaf, tensor in module.codebooks.items():
                assert isinstance(tensor, CodebookTensor)
                yield dot + leaf, tensor.codebook()
        for leaf, plain in _own(module).items():
            yield dot + leaf, plain


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of the module itself."""
    fleeting = module._non_persistent_buffers_set
    buffers = {name: buffer for name, buffer in module._buffers.items() if name not in fleeting}
    return {name: tensor for name, tensor in {**module._parameters, **buffers}.items() if tensor is not None}


def _holds_codes(module: nn.Module) -> bool:
    return isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], CodebookWeight)


def _same(first: Tensor | Codebook, second: Tensor | Codebook) -> bool:
    if isinstance(first, Codebook) and isinstance(second, Codebook):
        return first.layout == second.layout and torch.equal(first.centroids, second.centroids)
    return first is second


def remember(model: nn.Module, recipe: dict[str, Any] | None, storage: dict[str, str]) -> None:
    """Attach recipe and storage to a model as plain data, which copies and pickles keep."""
    model._lloydmax = {"recipe": recipe, "storage": storage}  # type: ignore[assignment]


def ordinary(name: str, tensor: Tensor, meta: bool = False) -> Tensor:
    """The detached tensor, which may be on the meta device if ``meta``.

    Raises:
        CheckpointError: it is lazy, sparse, quantized, on the meta device, of another class, or of a dtype
            that safetensors does not have.
    """
    if is_lazy(tensor):
        raise CheckpointError(f"{name!r} is lazy; run the model once first")
    plain = tensor.detach()
    if plain.is_meta and not meta:
        raise CheckpointError(f"{name!r} is on the meta device; call model.to_empty(device=...) first")
    if type(plain) is not Tensor or plain.layout != torch.strided or plain.is_quantized:
        raise CheckpointError(
            f"{name!r} is no ordinary tensor ({type(plain).__name__}, {plain.layout}); a tensor of another toolkit "
            "has no place in this file: keep the model by torch.save(model.state_dict(), path)"
        )
    if plain.dtype not in DTYPES:
        raise CheckpointError(f"{name!r} is {plain.dtype}, which safetensors cannot hold")
    return plain


def check_state(model: nn.Module) -> None:
    """Refuse a model whose state dict has more than parameters and buffers.

    Raises:
        CheckpointError: a module keeps packed weights or extra state.
    """
    if isinstance(model, IntegerModel):
        return
    for name, module in model.named_modules():
        state: dict[str, Any] = {}
        module._save_to_state_dict(state, "", True)
        if extra := [key for key in state if key not in _own(module) and state[key] is not None]:
            raise CheckpointError(
                f"module {name!r} ({type(module).__name__}) keeps {extra[0]!r}, which is no parameter or buffer "
                "(int8 layers of torch.ao keep packed weights); keep the model by torch.save(model.state_dict(), path)"
            )
