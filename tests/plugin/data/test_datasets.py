"""Datasets and loaders as unlabelled data: samplers, workers, randomness, failures."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from lloydmax.data import DatasetSource, random_order, split, unlabelled
from lloydmax.data.datasets import PROBED_SAMPLES
from lloydmax.errors import DataError
from PIL import Image
from samples import LABELS, N, Stream, X, assert_holds_x, linear, read
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)


class Noisy(Dataset):
    """Random augmentation from the global generator of torch, numpy or Python."""

    def __init__(self, noise) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int):
        return X[index] + self.noise(), 0


class Duck:
    """A dataset by its methods only, as Hugging Face's."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict:
        return {"input": X[index], "label": 1}


@pytest.mark.parametrize(
    "data",
    [TensorDataset(X, LABELS), Duck(), DataLoader(TensorDataset(X, LABELS), batch_size=3), DataLoader(Duck())]
    + [DataLoader(TensorDataset(X), batch_size=3, num_workers=2)],
)
def test_datasets(data):
    source = unlabelled(data, linear())
    assert isinstance(source, DatasetSource)
    assert source.deterministic
    assert_holds_x(source)
    assert "10 samples of" in source.describe() and "float32 3" in source.describe()


def test_samplers_are_respected():
    def drawn(**options) -> list[int]:
        source = unlabelled(DataLoader(TensorDataset(X, LABELS), **options), linear())
        indices, values = read(source)
        assert indices.tolist() == list(range(len(source)))
        again = read(source, 1, order=torch.arange(len(source)).flip(0))[1].flip(0)
        assert torch.equal(values, again)  # an index is one sample, however the loader shuffles
        return values[:, 0].int().tolist()

    assert sorted(drawn(shuffle=True, batch_size=3)) == list(range(N))
    assert sorted(drawn(sampler=SubsetRandomSampler([2, 3, 5]))) == [2, 3, 5]
    weights = [0.0] * N
    weights[4] = 1.0
    assert drawn(sampler=WeightedRandomSampler(weights, 6)) == [4] * 6
    assert drawn(batch_sampler=[[1, 2], [3], [9, 9]]) == [1, 2, 3, 9, 9]
    assert drawn(batch_sampler=BatchSampler(SequentialSampler(range(5)), 2, drop_last=False)) == [0, 1, 2, 3, 4]
    shuffled = DataLoader(TensorDataset(X), shuffle=True)
    first, second, other = ([int(k) for k in unlabelled(shuffled, linear(), seed=seed).keys] for seed in (0, 0, 1))
    assert first == second != other


def test_an_endless_sampler_is_refused(monkeypatch):
    class Endless(torch.utils.data.Sampler):
        def __iter__(self):
            while True:
                yield 0

    monkeypatch.setattr("lloydmax.data.opening.MOST_DRAWS", 50)
    with pytest.raises(DataError, match="does not end"):
        unlabelled(DataLoader(TensorDataset(X), sampler=Endless()), linear())


def test_collate_fn_and_workers_are_kept():
    loader = DataLoader(TensorDataset(X), collate_fn=lambda rows: torch.stack([row[0] for row in rows]) + 1)
    assert torch.equal(read(unlabelled(loader, linear()))[1], X + 1)
    source = unlabelled(DataLoader(Duck(), num_workers=1, worker_init_fn=_shift), linear())
    assert torch.equal(read(source)[1], X)
    loading = source._loading
    assert loading["num_workers"] == 1 and loading["worker_init_fn"] is _shift
    dropping = DataLoader(TensorDataset(X), collate_fn=lambda rows: torch.zeros(1, 3))
    with pytest.raises(DataError, match="one row a sample"):
        read(unlabelled(dropping, linear()))


def _shift(worker: int) -> None:
    """Runs in the worker process."""


def test_a_failing_dataset_is_told_in_words():
    class Broken(Duck):
        def __getitem__(self, index):
            if index >= 5:
                raise OSError("disk on fire")
            return X[index]

    source = unlabelled(Broken(), linear())
    with pytest.raises(DataError, match=r"Broken.*samples 5, 6, .*OSError: disk on fire"):
        read(source)

    class Pictures(Duck):
        def __getitem__(self, index):
            return Image.new("L", (2, 2))

    with pytest.raises(DataError, match="PIL"):
        unlabelled(Pictures(), linear())

    def batches():
        yield X
        raise ValueError("torn")

    with pytest.raises(DataError, match="generator.*ValueError: torn"):
        unlabelled(batches(), linear())


@pytest.mark.parametrize("noise", [lambda: torch.rand(3), lambda: random.random(), lambda: float(np.random.rand())])
def test_random_datasets_are_found_out_without_touching_global_generators(noise):
    model = linear()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    source = unlabelled(DataLoader(Noisy(noise), shuffle=True), model)
    assert not source.deterministic
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()
    assert not torch.equal(read(source)[1], read(source)[1])


def test_the_determinism_probe_runs_once_and_only_when_asked():
    reads = []

    class Counting(Duck):
        def __getitem__(self, index):
            reads.append(index)
            return X[index]

    source = unlabelled(Counting(), linear())
    assert reads == [0, 1, 2]
    assert source.deterministic and source.deterministic
    assert len(reads) == 3 + 2 * min(N, PROBED_SAMPLES)


def test_nothing_touches_the_global_generator():
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(X), shuffle=True, generator=generator)
    model = linear()
    before, own = torch.get_rng_state(), generator.get_state()
    plain = DataLoader(TensorDataset(X), shuffle=True, num_workers=1)
    for data in (X, [X], loader, plain, DataLoader(Stream())):
        source = unlabelled(data, model)
        read(source)
        split(source, 2, seed=1)
        random_order(N, 3, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(own, generator.get_state())
