"""What is wrong with a batch: values that are not finite, other numbers or axes than in the batches before."""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lloydmax.data.batch import Batch, leaves


def faults(batch: Batch) -> dict[int, str]:
    """The rows of a batch that hold NaN or infinities, with the reason in words; one sum a tensor where there are none.

    Minus infinity is no fault in an additive mask: a tensor beside others whose row holds nothing but it and zeros.
    """
    if all(map(_sums_to_finite, batch.tensors())):
        return {}
    suspects = [(name, tensor) for name, tensor in _tensors(batch) if not _sums_to_finite(tensor)]
    found: dict[int, str] = {}
    samples, several = len(batch), sum(1 for _ in batch.tensors()) > 1
    for name, tensor in suspects:
        own = not batch.whole and tensor.ndim > 0 and len(tensor) == samples
        rows = tensor.reshape(samples if own else 1, -1)
        bad = ~torch.isfinite(rows).all(1)
        if several and not tensor.is_complex():
            bad &= ~((rows == 0) | (rows == -math.inf)).all(1)
        for row in torch.nonzero(bad)[:, 0].tolist():
            reason = _reason(rows[row]) + (f" in {name}" if several else "")
            for sample in [row] if own else range(samples):
                found.setdefault(sample, reason)
    return found


def kinds(batch: Batch) -> dict[str, str]:
    """Numbers and axes of every tensor, by the name or the number of its argument, such as ``floats with 4 axes``."""
    return {name: f"{kind_of(leaf)} with {leaf.ndim} axes" for name, leaf in _tensors(batch)}


def signature(batch: Batch) -> list[tuple[torch.dtype, int]]:
    """What decides about :func:`kinds`, at little cost."""
    return [(tensor.dtype, tensor.ndim) for tensor in batch.tensors()]


def kind_of(array: Tensor | np.ndarray[Any, np.dtype[Any]]) -> str:
    """``floats``, ``complex numbers`` or ``integers``, which booleans are, too."""
    if isinstance(array, np.ndarray):
        return {"f": "floats", "c": "complex numbers"}.get(array.dtype.kind, "integers")
    return "floats" if array.is_floating_point() else "complex numbers" if array.is_complex() else "integers"


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    arguments = [*((f"input {number}", value) for number, value in enumerate(batch.args, start=1))]
    arguments += [(repr(name), value) for name, value in batch.kwargs.items()]
    for name, value in arguments:
        for leaf in leaves(value):
            if isinstance(leaf, Tensor):
                yield name, leaf


def _sums_to_finite(tensor: Tensor) -> bool:
    """Whether the sum is finite: then so is every value. Of large finite values it may not be."""
    if tensor.layout != torch.strided or not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
        return True
    total = tensor.sum(dtype=torch.float32) if tensor.dtype == torch.float16 else tensor.sum()
    return cmath.isfinite(total.item())


def _reason(values: Tensor) -> str:
    if bool(torch.isnan(values).any()):
        return "NaN"
    return "infinite in float16, which ends at 65,504" if values.dtype == torch.float16 else "infinite"
