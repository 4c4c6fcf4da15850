"""Deep copies of modules are those of ``copy.deepcopy``."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from lloydmax.network.copying import deep_copy
from torch import nn


class Odd(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 2)
        self.tied, self.inside = self.weight, {"layer": [nn.Linear(2, 2)], 3: self._parameters}
        self.words, self.chosen = ("a", 1), {"x"}
        self.register_forward_hook(lambda *_: None)


class Kept(nn.Module):
    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        return self


class Paired(nn.Module):
    def __getstate__(self) -> Any:
        return self.__dict__, "more"

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.more = state[1]


class Own(nn.Module):
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cache": None}

    cache = "class"


class Asking(nn.Module):
    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


def _models() -> dict[str, nn.Module]:
    shared = nn.Conv2d(1, 2, 3)
    tied = nn.Sequential(shared, nn.BatchNorm2d(2), shared, nn.LSTM(2, 3))
    return {
        "tied": tied,
        "odd": Odd(),
        "own": nn.Sequential(Own(), Asking()),
        "hooked": nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    }


@pytest.mark.parametrize("kind", _models())
def test_it_is_the_same_as_deepcopy(kind: str) -> None:
    model = _models()[kind]
    one, other = deep_copy(model), copy.deepcopy(model)
    assert repr(one) == repr(other) and list(one.state_dict()) == list(model.state_dict())
    for (name, mine), (_, theirs) in zip(one.named_modules(), other.named_modules(), strict=True):
        assert list(vars(mine)) == list(vars(theirs)), name
        for key, value in vars(mine).items():
            assert type(value) is type(vars(theirs)[key]), (name, key)
    own = {id(value) for module in model.modules() for value in (module, *vars(module).values()) if not _is_same(value)}
    mine = {id(value) for module in one.modules() for value in (module, *vars(module).values()) if not _is_same(value)}
    assert not own & mine
    for before, after in zip(model.parameters(), one.parameters(), strict=True):
        assert torch.equal(before, after) and before.data_ptr() != after.data_ptr()


def _is_same(value: Any) -> bool:
    return not isinstance(value, (nn.Module, torch.Tensor, dict, OrderedDict, list, set))


def test_what_is_shared_inside_stays_shared_inside() -> None:
    odd = deep_copy(Odd())
    assert odd.tied is odd.weight and odd.inside[3] is odd._parameters
    tied = deep_copy(_models()["tied"])
    assert tied[0] is tied[2]


def test_classes_that_say_how_they_are_copied_are_asked() -> None:
    model = nn.Sequential(Kept(), nn.Linear(1, 1))
    assert deep_copy(model)[0] is model[0]
    assert deep_copy(nn.Sequential(Paired()))[0].more == "more"
    own = Own()
    own.cache = "kept"
    assert deep_copy(own).cache is None


def test_a_memo_stands_for_tensors() -> None:
    model = nn.Linear(2, 2)
    other = nn.Parameter(torch.zeros(2, 2))
    assert deep_copy(model, {id(model.weight): other}).weight is other
