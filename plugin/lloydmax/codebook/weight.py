"""What a codebook can be fitted to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lloydmax.codebook.layout import FLOAT_DTYPES
from lloydmax.errors import FitError
from lloydmax.runtime.dense import finite, not_dense, without_values


def check_weight(weight: Tensor, importance: Tensor | None = None) -> None:
    """Refuse what no codebook can be fitted to.

    Raises:
        FitError: not a dense float32, float16 or bfloat16 tensor; empty; without values; NaN or infinite values;
            importance of another shape, negative, not finite, or zero everywhere.
    """
    if not isinstance(weight, Tensor) or weight.dtype not in FLOAT_DTYPES:
        found = getattr(weight, "dtype", type(weight).__name__)
        raise FitError(f"a codebook needs a float32, float16 or bfloat16 tensor, got {found}")
    for called, tensor in (("the weight", weight), ("importance", importance)):
        if isinstance(tensor, Tensor) and without_values(tensor):
            raise FitError(f"{called} has no values, only a shape (a meta or fake tensor): load the values first")
        if isinstance(tensor, Tensor) and (kind := not_dense(tensor)):
            raise FitError(f"{called} is {kind}")
    if weight.numel() == 0:
        raise FitError(f"the weight is empty: shape {tuple(weight.shape)}")
    if not finite(weight.detach()):
        broken = int((~torch.isfinite(weight.detach())).sum())
        raise FitError(
            f"{broken} of {weight.numel()} weights are NaN or infinite (shape {tuple(weight.shape)}); "
            "repair the model or leave this parameter out of the recipe"
        )
    if importance is None:
        return
    if not isinstance(importance, Tensor) or importance.is_complex():
        raise FitError(
            f"importance must be a tensor of numbers, not {getattr(importance, 'dtype', type(importance).__name__)}"
        )
    if importance.shape != weight.shape:
        raise FitError(f"importance has shape {tuple(importance.shape)}, the weight {tuple(weight.shape)}")
    least, most = (float(limit) for limit in importance.aminmax())
    if not (least >= 0 and 0 < most < math.inf):
        raise FitError("importance must be finite, non-negative and not zero everywhere")
