"""Numbers of callers: what they may be, and what is said of everything else."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from lloydmax.errors import DataError, RecipeError
from lloydmax.runtime.arguments import number, whole


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers(value: Any) -> None:
    found = whole("n", value, DataError)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", [0, -1, 2**63, True, 1.0, "3", None, [3], math.nan, torch.tensor(1.5), 10**400])
def test_what_is_no_whole_number_from_1(value: Any) -> None:
    with pytest.raises(DataError, match="^n must be a whole number, at least 1, not ") as error:
        whole("n", value, DataError)
    assert len(str(error.value)) < 200


def test_a_number_that_python_does_not_write() -> None:
    with pytest.raises(DataError, match="not of type int"):
        whole("n", 10**5000, DataError)


def test_bounds_of_whole_numbers() -> None:
    assert whole("n", 0, DataError, least=0) == 0
    with pytest.raises(DataError, match="2 to 4, not 5"):
        whole("n", 5, DataError, least=2, most=4)


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), torch.tensor(3.0), Fraction(3)])
def test_numbers(value: Any) -> None:
    found = number("x", value, RecipeError)
    assert found == 3.0 and type(found) is float


@pytest.mark.parametrize("value", [-1, True, "3", b"3", None, [3], math.nan, math.inf, 1j, 10**400, torch.ones(2)])
def test_what_is_no_number_from_0(value: Any) -> None:
    with pytest.raises(RecipeError, match="^x must be 0 or more, not "):
        number("x", value, RecipeError)


def test_bounds_of_numbers() -> None:
    for value in (0, -1.0):
        with pytest.raises(RecipeError, match="x must be a number above 0, not"):
            number("x", value, RecipeError, above=True)
    with pytest.raises(RecipeError, match="x must be 0 or more, 5 at most, not 6"):
        number("x", 6, RecipeError, most=5)
