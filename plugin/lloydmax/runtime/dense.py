"""Whether a tensor is a plain block of values in memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy


def not_dense(tensor: Tensor) -> str | None:
    """What kind of tensor this is if not a dense one, and how to make it one; ``None``: it is dense, or lazy."""
    if is_lazy(tensor):
        return None
    if tensor.is_quantized:
        return "a quantized tensor, whose values cannot be fitted: store it as tensor.dequantize()"
    if tensor.is_nested:
        return "a nested tensor, which is not one block of values: store a tensor for each part"
    if tensor.layout != torch.strided:
        layout = str(tensor.layout).removeprefix("torch.").lstrip("_")
        return f"a {layout} tensor, which is not a plain block of values: store it as tensor.to_dense()"
    return None


def without_values(tensor: Tensor) -> bool:
    """Whether a tensor has a shape and no values: on the meta device, or fake."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; a sum, which is quick, tells so of nearly all tensors that are finite."""
    return math.isfinite(float(values.sum())) or bool(torch.isfinite(values).all())
