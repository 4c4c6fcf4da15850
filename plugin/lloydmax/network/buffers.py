"""Which buffers of a network are weights, as importers leave them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lloydmax.codebook.layout import FLOAT_DTYPES
from lloydmax.network.norms import is_norm
from lloydmax.network.written import written
from lloydmax.runtime.dense import not_dense

LARGE = 0.01
"""Share of the floats of a model from which a tensor counts as large."""


def weights_in_buffers(model: nn.Module) -> list[str]:
    """The buffers that are weights, by all their names: those that a file keeps and that have 1 % or more of the
    floats of the model, two axes or more, finite values of float32, float16 or bfloat16, more than two of them (a mask
    has two), and that no forward method writes.

    Args:
        model: any; names of buffers that are also parameters are not meant.
    """
    every = {id(t): t for t in (*model.parameters(), *(held for *_, held in _kept(model))) if not is_lazy(t)}
    total = sum(t.numel() for t in every.values() if t.is_floating_point())
    large = [(name, leaf, held) for name, leaf, held in _kept(model) if not is_lazy(held) and _is_large(held, total)]
    writes = written(model) if large else frozenset[str]()
    fit = {id(held) for _, _, held in large if why_not(held) is None}
    fit -= {id(held) for name, leaf, held in large if {name, leaf} & writes}
    return [name for name, _, held in large if id(held) in fit]


def why_not(held: Tensor, mask: bool = True) -> str | None:
    """Why a tensor cannot have a codebook as it is, or as a ``mask`` of two values should not; ``None`` if it can."""
    if held.dtype not in FLOAT_DTYPES:
        return f"it is {str(held.dtype).removeprefix('torch.')}, not float32, float16 or bfloat16"
    if not bool(torch.isfinite(held).all()):
        return "it holds infinities or NaN"
    if mask and 1 < _distinct(held) <= 2:
        return "it is a buffer of two values, such as a mask"
    return None


def _kept(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Name, name within the module, and tensor, of every dense buffer that a file keeps, of norms none."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        if is_norm(module):
            continue
        for leaf, held in module._buffers.items():
            if held is None or leaf in module._non_persistent_buffers_set or isinstance(held, nn.Parameter):
                continue
            if is_lazy(held) or (type(held) is Tensor and not held.is_meta and not_dense(held) is None):
                yield f"{prefix}.{leaf}".lstrip("."), leaf, held


def _is_large(held: Tensor, total: int) -> bool:
    return held.dim() > 1 and held.is_floating_point() and held.numel() >= max(1.0, LARGE * total)


def _distinct(held: Tensor) -> int:
    """How many values there are; more than two count as three."""
    flat = held.reshape(-1)
    other = flat[flat != flat[0]] if len(flat) else flat
    return 1 if not len(other) else 3 if bool((other != other[0]).any()) else 2
