"""What a model takes of an item of data: labels dropped, parameters by name, dtypes of the model, clear refusals."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from lloydmax.data import Batch, inputs_of
from lloydmax.errors import DataError
from samples import LABELS, N, Text, Two, X, conv, linear
from torch import Tensor, nn


class AnyName(nn.Module):
    def forward(self, **inputs: Tensor) -> Tensor:
        return sum(inputs.values())


class NeedsTarget(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@pytest.mark.parametrize(
    "item",
    [X, X.numpy(), X.double(), (X, LABELS), [X, LABELS], (X, LABELS, "weights"), {"image": X, "label": LABELS}]
    + [{"input": X, "extra": LABELS}, ((X,), LABELS), ({"image": X}, LABELS), namedtuple("P", "x y")(X, LABELS)]
    + [{"image": X.numpy(), "target": X, "name": ["a"] * N}],
)
def test_labels_are_dropped_and_floats_get_the_dtype_of_the_model(item):
    for dtype in (torch.float32, torch.bfloat16):
        batch = inputs_of(item, linear().to(dtype))
        (given,) = batch.tensors()
        assert given.dtype == dtype
        assert torch.equal(given.float(), X)
        assert batch.run(linear().to(dtype)).shape == (N, 2)


@pytest.mark.parametrize("item", [(X, X + 1), (X, X + 1, LABELS), ((X, X + 1), LABELS), [[X, X + 1]]])
def test_leading_elements_as_forward_requires(item):
    a, b = inputs_of(item, Two()).args
    assert torch.equal(b - a, torch.ones(N, 3))


def test_mappings_give_the_parameters_of_forward():
    ids, mask = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5)
    batch = inputs_of(UserDict(input_ids=ids, attention_mask=mask, labels=ids, idx=ids, text=["a", "b"]), Text())
    assert set(batch.kwargs) == {"input_ids", "attention_mask"}
    assert batch.run(Text()).shape == (2, 5, 4)
    assert set(inputs_of({"p": X, "q": X, "labels": X, "text": ["a"]}, AnyName()).kwargs) == {"p", "q"}
    assert set(inputs_of({"x": X, "y": X}, NeedsTarget()).kwargs) == {"x", "y"}  # needed, whatever its name
    assert set(inputs_of({"b": X, "a": X, "y": LABELS}, Two()).kwargs) == {"a", "b"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_wrapped_models_and_scripts():
    for wrapped in (torch.compile(Two(), backend="eager"), nn.DataParallel(Two())):
        assert len(inputs_of((X, X, LABELS), wrapped).args) == 2
    scripted = torch.jit.trace(linear(), X)
    assert len(inputs_of((X, LABELS), scripted).args) == 1


@pytest.mark.parametrize(
    ("item", "model", "words"),
    [
        (X, Two(), "required argument: 'b'"),
        ((X,), Two(), "required argument: 'b'"),
        (((X, X), LABELS), linear(), "too many positional"),
        ({"p": X, "q": X}, Two(), r"p, q.*Two.forward \(a, b, scale\)"),
        ({"label": X}, linear(), "rename"),
        ((X, X[:3]), Two(), r"first axis.*lloydmax\.extend\.Batch\(.*whole=True\)"),
        (object(), linear(), r"of type object.*lloydmax\.extend\.Batch\(.*whole=True\)"),
        (torch.tensor(1.0), linear(), "first axis is the samples"),
        (["a", "b"], linear(), "return_tensors='pt'"),
        ("text", linear(), "of type str"),
        ((), linear(), "empty tuple"),
        (np.array(["a"]), linear(), "give numbers"),
    ],
)
def test_items_that_do_not_fit(item, model, words):
    with pytest.raises(DataError, match=words):
        inputs_of(item, model)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integers_reach_the_model_as_they_are(dtype):
    ids = torch.ones(2, 5).to(dtype)
    for model in (nn.Embedding(4, 2), conv(), linear()):  # whether it converts them is asked of the model, not guessed
        assert inputs_of(ids, model).args[0].dtype == dtype
    batch = inputs_of({"b": X, "a": LABELS}, Two())
    assert batch.kwargs["a"].dtype == torch.int64


class Pair(nn.Module):
    def forward(self, pair):
        a, b = pair
        return a + b


class Typed(Pair):
    def forward(self, pair: tuple[Tensor, Tensor], scale: Tensor | None = None) -> Tensor:
        return super().forward(pair)


class Features(nn.Module):
    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return features["a"] + features["b"]


class Anything(Features):
    def forward(self, given):
        return super().forward(given)


class Detector(nn.Module):
    def forward(self, images: list[Tensor], targets: None = None) -> Tensor:
        return torch.stack([image.mean() for image in images])


@dataclass
class Both:
    a: Tensor
    b: Tensor
    label: int = 3


@pytest.mark.parametrize(
    ("item", "model"),
    [(((X, X), LABELS), Pair()), (((X, X),), Pair()), ([[X, X]], Typed()), (((X, X), LABELS), Typed())]
    + [({"a": X, "b": X, "label": LABELS}, Features()), ({"a": X, "b": X}, Anything()), (Both(X, X), Two())]
    + [(Both(X, X), Anything())],
)
def test_what_is_one_argument(item, model):
    batch = inputs_of(item, model)
    assert len(batch) == N and len(batch.run(model)) == N and len(batch[:3].run(model)) == 3


def test_pictures_of_different_sizes_are_a_whole():
    pictures = [torch.ones(3, 8, 8 + number) for number in range(4)]
    for item in ((tuple(pictures), ({},) * 4), (pictures,), Batch((pictures,), whole=True)):
        batch = inputs_of(item, Detector())
        assert batch.whole and len(batch) == 1 and len(batch.run(Detector())) == 4
        assert len(batch[torch.tensor([0])].run(Detector())) == 4
