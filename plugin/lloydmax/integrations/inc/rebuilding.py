"""Layers of INC's own algorithms, written down so that they can be built again and filled from a file."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lloydmax.errors import CheckpointError, IntegrationError
from lloydmax.integrations.inc.host import layer_classes

_HALF = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
_SIZES = ("in_features", "out_features", "dtype", "bits", "group_size", "compression_dim", "use_optimum_format")
_DTYPES = {"scale_dtype": "float_type", "compression_dtype": "compression_dtype"}
"""Arguments that are dtypes, and the attributes that hold them."""


def described(module: Any, name: str) -> dict[str, Any]:
    """A layer of INC's as plain data, without its values.

    Raises:
        IntegrationError: one that cannot be built again.
    """
    kinds = layer_classes()
    if type(module) is kinds["HalfPrecisionModuleWrapper"]:
        return {"class": "HalfPrecisionModuleWrapper", "dtype": _HALF[module.dtype]}
    if type(module) is kinds["MulLinear"]:
        inner = module.linear
        return {"class": "MulLinear", "linear": None if type(inner) is nn.Linear else described(inner, name)}
    if type(module) is kinds["INCWeightOnlyLinear"] and not module.enable_w4a8:
        given = {size: getattr(module, size) for size in _SIZES}
        given |= {argument: str(getattr(module, held)) for argument, held in _DTYPES.items()}
        given |= {"zp": hasattr(module, "qzeros"), "bias": module.bias is not None, "g_idx": "g_idx" in module._buffers}
        return {"class": "INCWeightOnlyLinear", **given}
    raise IntegrationError(
        f"{name} is a {type(module).__name__} of INC's own algorithms, which cannot be built again from a file: use "
        "save_portable(model, folder, example_inputs), or leave its layer to CodebookConfig"
    )


def build(model: nn.Module, name: str, about: dict[str, Any]) -> None:
    """Put a layer that :func:`described` wrote down in its place.

    Raises:
        CheckpointError: the description is damaged, or the model has no such layer.
    """
    parent, _, leaf = name.rpartition(".")
    try:
        holder = model.get_submodule(parent)
        setattr(holder, leaf, _built(about, holder.get_submodule(leaf)))
    except (AttributeError, KeyError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise CheckpointError(f"qconfig.json: {name!r} is not a layer of this model, or is damaged ({error})") from None


def dtype_of(text: Any) -> torch.dtype:
    """The dtype of ``"torch.float16"``.

    Raises:
        ValueError: it is none.
    """
    found = getattr(torch, str(text).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"unknown dtype {text!r}")
    return found


def _built(about: dict[str, Any], original: nn.Module) -> nn.Module:
    given, kinds = dict(about), layer_classes()
    kind = given.pop("class")
    if kind == "HalfPrecisionModuleWrapper":
        device = next((p.device.type for p in original.parameters()), "cpu")
        made: nn.Module = kinds[kind](original, device=device, dtype=dtype_of(given["dtype"]))
    elif kind == "MulLinear":
        made = kinds[kind](original if given["linear"] is None else _built(given["linear"], original))
    elif kind == "INCWeightOnlyLinear":
        given |= {argument: dtype_of(given[argument]) for argument in _DTYPES}
        made = kinds[kind](**given)
    else:
        raise ValueError(f"unknown layer {kind!r}")
    return made
