"""Lists of items and of pictures are one call as a whole: no sample is dropped without a word."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from lloydmax.data import unlabelled
from lloydmax.errors import DataError
from samples import Text, Two, X, conv, linear
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

PICTURES = torch.arange(12.0).view(12, 1, 1, 1) * torch.ones(12, 3, 4, 5)


class Listening(nn.Module):
    """Takes a list, and does not say so."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = conv(channels)

    def forward(self, pictures):
        return self.conv(torch.stack(list(pictures)))


class Saying(Listening):
    def forward(self, pictures: list[Tensor], targets: None = None) -> Tensor:
        return super().forward(pictures)


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, rows):
        return self.layer(torch.stack(list(rows)))


def numbers(source) -> list[float]:
    """The pictures that the model gets, call by call."""
    found: list[float] = []
    for _, batch in source.batches(4):
        assert batch.whole and len(batch.args) == 1
        found += [float(picture.mean()) for picture in batch.args[0]]
    return found


def zipped(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[tuple[Tensor, ...], ...]:
    return tuple(zip(*items, strict=True))


def as_it_is(items):
    return items


@pytest.mark.parametrize("model", [Listening(), Saying(), Flat()])
@pytest.mark.parametrize("collate", [list, tuple, as_it_is])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_a_collate_fn_that_makes_a_list_loses_nothing(model, collate, size):
    datasets = TensorDataset(PICTURES), TensorDataset(PICTURES, torch.arange(12)), TensorDataset(PICTURES, PICTURES)
    for dataset in (*datasets, list(PICTURES)):
        assert numbers(unlabelled(DataLoader(dataset, size, collate_fn=collate), model)) == list(range(12))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_pictures_apart_from_their_targets_lose_nothing(size):
    for targets in ([{"label": 3}] * 12, PICTURES):
        loader = DataLoader(list(zip(PICTURES, targets, strict=True)), size, collate_fn=zipped)
        assert numbers(unlabelled(loader, Listening())) == list(range(12))


@pytest.mark.parametrize("size", [2, 4, 6])
def test_a_list_of_lists_loses_nothing(size):
    parts = [PICTURES[at : at + size] for at in range(0, 12, size)]
    for model in (Listening(), Saying()):
        for batches in (
            [list(part) for part in parts],
            [tuple(part) for part in parts],
            [list(part.numpy()) for part in parts],
            [[(x,) for x in part] for part in parts],
            [[(x, 3) for x in part] for part in parts],
            [[[x, torch.tensor(3)] for x in part] for part in parts],
        ):
            assert numbers(unlabelled(batches, model)) == list(range(12))
    different = [[torch.zeros(3, 4, 5 + n) for n in range(size)] for _ in range(3)]
    assert all(len(batch.args[0]) == size for _, batch in unlabelled(different, Listening()).batches(1))


def test_what_stays_inputs_and_labels():
    sequences = torch.randn(6, 4, 3)
    for batch in ([sequences, sequences], (sequences, sequences, sequences), [X, X], ((X, X), (X, X))):
        source = unlabelled([batch], Two() if isinstance(batch[0], tuple) else linear())
        assert not source.first(1).whole and len(source) == len(next(source.first(100).tensors()))
    one_picture = unlabelled([[torch.zeros(4, 3, 5, 5), torch.zeros(4, 3, 5, 5)]], conv())
    assert len(one_picture) == 4


def test_lists_that_cannot_be_one_argument():
    for dataset, model in ((TensorDataset(X, X), Two()), ([{"input_ids": torch.ones(3)}] * 4, Text())):
        with pytest.raises(DataError, match=r"not collated.*Batch\(.*whole=True"):
            unlabelled(DataLoader(dataset, 2, collate_fn=list), model)


def test_a_list_of_fewer_pictures_than_samples():
    def first(items):
        return (items[:1], [{}])

    with pytest.raises(DataError, match="made 1 rows of 4 samples"):
        list(unlabelled(DataLoader(list(PICTURES), 4, collate_fn=first), Saying()).batches(4))


class Hears(nn.Module):
    def forward(self, input_values):
        return input_values


class HearsFeatures(nn.Module):
    def forward(self, input_features):
        return input_features.flatten(1)


class Sees(nn.Module):
    def forward(self, pixel_values):
        return pixel_values.flatten(1)


@pytest.mark.parametrize("model", [Hears(), HearsFeatures(), Sees()])
@pytest.mark.parametrize("kind", [torch.as_tensor, Tensor.numpy, Tensor.tolist])
def test_samples_as_transformers_has_them_are_no_batches(model, kind):
    name, shape = {
        Hears: ("input_values", (30,)),
        HearsFeatures: ("input_features", (4, 6)),
        Sees: ("pixel_values", (3, 4, 5)),
    }[type(model)]
    values = torch.rand(6, *shape)
    samples = unlabelled([{name: kind(value), "labels": 1} for value in values], model)
    assert len(samples) == 6 and torch.equal(samples.first(6).kwargs[name], values)
    batches = unlabelled([{name: values[:4]}, {name: values[4:]}], model)
    assert len(batches) == 6 and torch.equal(batches.first(6).kwargs[name], values)


def test_a_sample_of_another_length_is_left_out_and_named():
    source = unlabelled([{"input_values": torch.rand(30 + 5 * (at == 7))} for at in range(300)], Hears())
    with pytest.warns(UserWarning, match="35"):
        list(source.batches(64))
