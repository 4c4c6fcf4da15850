"""Dicts of Python objects: what becomes plain data, and what no recipe holds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from lloydmax import Recipe, RecipeError
from lloydmax.recipe.plain import plain
from timing import seconds_of


class Word(str):
    """A text of another class."""


class Level(IntEnum):
    LOW = 4


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        *((np.int64(4), 4), (np.float32(0.5), 0.5), (np.bool_(True), True), (np.str_("a"), "a"), (np.array(4), 4)),
        *((torch.tensor(4), 4), (torch.tensor(0.5, requires_grad=True), 0.5), (torch.tensor(True), True)),
        *((Decimal("0.1"), 0.1), (Fraction(1, 4), 0.25), (Level.LOW, 4), (Word("a"), "a"), (None, None), (True, True)),
        *(((1, (2,)), [1, [2]]), (range(3), [0, 1, 2]), (OrderedDict(a=1), {"a": 1})),
        (MappingProxyType({"a": 1}), {"a": 1}),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_a_plain_value_becomes_one(value: Any, wanted: Any) -> None:
    found = plain({"a": value})["a"]
    assert found == wanted and type(found) is type(wanted)


@dataclass
class Data:
    layers: str = "all"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((np.array([4]), "not ndarray; give .tolist() of it"), (torch.tensor([2, 4]), "not Tensor; give .tolist()")),
        *(({1, 2}, "not set"), (frozenset(), "not frozenset"), (b"x", "not bytes"), (Path("x"), "not PosixPath")),
        *((np.complex64(1), "complex64"), (np.datetime64("2020"), "datetime64"), (Data(), "not Data"), (1j, "complex")),
        *((iter([1]), "not list_iterator"), (torch.tensor(1, device="meta"), "not a number"), (float("inf"), "finite")),
        *((np.float64("nan"), "finite"), (torch.tensor(float("inf")), "finite"), (10**400, "64 bits")),
        *((Decimal("1e999999999"), "finite"), (Decimal("sNaN"), "64 bits"), (Fraction(10**400), "64 bits")),
        *(("\x1b[31m", "control"), ("a\u202eb", r"as \u202e in"), ("\ud800", "control"), ("\0", "control"),
        ("x" * 10_001, "10,001 characters")),
        *(({1: 2}, "a key must be text, not int"), ({("a",): 2}, "not tuple"), ({10**5000: 1}, "not int")),
        *((2**63, "64 bits"), (10**100_000, "64 bits"), ({None: 1}, "NoneType"), (Data, "not type")),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_anything_else_is_refused_with_its_field(value: Any, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.load({"quantize": [{"layers": "all", "centroids": value}]})
    assert str(error.value).startswith("recipe: quantize[1].centroids: ") and said in str(error.value).replace(
        "WindowsPath", "PosixPath"
    )
    assert str(error.value).isprintable() and len(str(error.value)) < 300


def test_cyclic_shared_deep_and_long_ones_are_refused_at_once() -> None:
    cyclic: dict[str, Any] = {}
    cyclic["quantize"] = [cyclic]
    shared: list[Any] = [1]
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for _ in range(45):
        shared = [shared, shared]

    def read() -> None:
        for value, said in (
            (cyclic, "nested more than 50 levels"),
            ({"quantize": deep}, "nested more than 50 levels"),
            ({"quantize": shared}, "more than 20,000 values"),
            ({"quantize": range(10**12)}, "more than 20,000 values"),
            ({"quantize": [{"layers": ["x" * 9000] * 200}]}, "larger than 1 MiB"),
        ):
            with pytest.raises(RecipeError, match=said):
                Recipe.load(value)

    assert seconds_of(read, 1) < 1
    while deep:  # or the interpreter frees it by recursion
        deep = deep[0]


def test_a_recipe_shares_nothing_with_what_it_was_made_of() -> None:
    numbers = [2, 4]
    recipe = Recipe.load({"quantize": [{"layers": "all", "centroids": numbers}]})
    numbers.append(8)
    assert recipe.data()["quantize"][0]["centroids"] == [2, 4]


class Odd:
    def __fspath__(self) -> int:
        return 1


@pytest.mark.parametrize("source", [None, 5, b"quantize:", ["all"], 1.5, object(), Odd()])
def test_what_is_not_a_recipe_at_all(source: Any) -> None:
    with pytest.raises(RecipeError, match=f"not {type(source).__name__}$"):
        Recipe.load(source)
