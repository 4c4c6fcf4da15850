"""Which weights and importances can have a codebook."""

from __future__ import annotations

import pytest
import torch
from lloydmax import FitError
from lloydmax.codebook.weight import check_weight
from torch import Tensor

WEIGHT = torch.ones(2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_finite_floats_will_do(dtype: torch.dtype) -> None:
    check_weight(WEIGHT.to(dtype))
    check_weight(WEIGHT.to(dtype), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.complex64])
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(FitError, match=f"got {dtype}"):
        check_weight(WEIGHT.to(dtype))


def test_an_empty_weight_is_refused() -> None:
    with pytest.raises(FitError, match=r"empty: shape \(0, 3\)"):
        check_weight(torch.zeros(0, 3))


def test_weights_that_are_not_finite_are_counted() -> None:
    weight = torch.tensor([[1.0, float("nan"), 2.0], [float("inf"), float("-inf"), 0.0]])
    with pytest.raises(FitError, match=r"3 of 6 weights are NaN or infinite \(shape \(2, 3\)\)"):
        check_weight(weight)


def test_finite_weights_whose_sum_is_not_will_do() -> None:
    check_weight(torch.full((2, 3), torch.finfo(torch.float32).max))


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        (torch.ones(3, 2), r"importance has shape \(3, 2\), the weight \(2, 3\)"),
        (torch.ones(6), r"importance has shape \(6,\)"),
        (torch.zeros(2, 3), "not zero everywhere"),
        (torch.tensor([[1.0, 1, 1], [1, 1, -1e-9]]), "non-negative"),
        (torch.tensor([[1.0, 1, 1], [1, 1, float("nan")]]), "finite"),
        (torch.tensor([[1.0, 1, 1], [1, 1, float("inf")]]), "finite"),
    ],
)
def test_importances_are_checked(importance: Tensor, expected: str) -> None:
    with pytest.raises(FitError, match=expected):
        check_weight(WEIGHT, importance)
