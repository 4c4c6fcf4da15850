"""Unlabelled data in every form, as inputs of a model."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
from collections import UserDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax.data import (
    ArraySource,
    Batch,
    BatchSource,
    DatasetSource,
    Inputs,
    capture_inputs,
    images,
    inputs_of,
    random_order,
    split,
    spool,
    unlabelled,
)
from lloydmax.data import sources as sources_module
from lloydmax.errors import DataError
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

N = 10
X = torch.arange(N, dtype=torch.float32)[:, None] * torch.ones(3)  # sample i is [i, i, i]
LABELS = 100 + torch.arange(N)


class Two(nn.Module):
    """Two required inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
        return self.layer(a + b) * scale


class Text(nn.Module):
    """The forward of a Hugging Face classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 4)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        assert labels is None
        return self.embedding(input_ids) * attention_mask[..., None]


class AnyName(nn.Module):
    def forward(self, **inputs: Tensor) -> Tensor:
        return sum(inputs.values())


class NeedsTarget(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Noisy(Dataset):
    """Random augmentation from the global generator of torch, numpy or Python."""

    def __init__(self, noise) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int):
        return X[index] + self.noise(), 0


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


def linear() -> nn.Module:
    return nn.Linear(3, 2)


def conv(channels: int = 3) -> nn.Module:
    return nn.Conv2d(channels, 2, 1)


def read(source, batch_size: int = 4, **options) -> tuple[Tensor, Tensor]:
    """All indices and all first inputs."""
    pairs = list(source.batches(batch_size, **options))
    return torch.cat([i for i, _ in pairs]), torch.cat([next(b.tensors()) for _, b in pairs])


def assert_holds_x(source) -> None:
    """The source has the samples of X in order, also in any other order with repeats."""
    assert len(source) == N
    indices, values = read(source)
    assert indices.tolist() == list(range(N))
    assert torch.equal(values, X)
    order = torch.tensor([7, 0, 0, 9, 3])
    indices, values = read(source, 2, order=order)
    assert torch.equal(indices, order)
    assert torch.equal(values, X[order])
    assert [len(b) for _, b in source.batches(4, drop_last=True)] == [4, 4]


# ------------------------------------------------------------------------------------------------ one batch


def test_batch_moves_maps_selects_and_runs():
    batch = Batch((torch.ones(4, 3, 2, 2), torch.arange(4)), {"scale": torch.tensor(2.0), "flag": True})
    assert len(batch) == 4
    half = batch[torch.tensor([0, 3])]
    assert half.args[0].shape == (2, 3, 2, 2)
    assert half.args[1].tolist() == [0, 3]
    assert half.kwargs["scale"] == 2 and half.kwargs["flag"] is True
    assert len(batch[1:]) == 3
    last = batch.to("cpu", channels_last=True)
    assert last.args[0].is_contiguous(memory_format=torch.channels_last)
    assert last.args[1].is_contiguous()
    assert batch.to("cpu").args[0].is_contiguous()
    assert batch.map(lambda t: t * 2).args[1].tolist() == [0, 2, 4, 6]
    assert batch.to("meta").args[0].is_meta
    model = Two()
    assert torch.equal(Batch((X,), {"b": X, "scale": 3.0}).run(model), model(X, X, 3.0))
    nested = Batch(((X, [X]),)).map(len)
    assert nested.args == ((N, [N]),)
    with pytest.raises(DataError, match="batch axis"):
        len(Batch((torch.tensor(1.0), "text")))


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
        ((X, X[:3]), Two(), "first axis"),
        (torch.tensor(1.0), linear(), "first axis is the samples"),
        (["a", "b"], linear(), "return_tensors='pt'"),
        ("text", linear(), "of type str"),
        ((), linear(), "empty tuple"),
        (np.array(["a"]), linear(), "give numbers"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), conv(), "uint8.*scale them to floats"),
        (torch.zeros(2, 3, dtype=torch.int64), nn.Sequential(nn.Flatten(), linear()), "int64.*scale"),
    ],
)
def test_items_that_do_not_fit(item, model, words):
    with pytest.raises(DataError, match=words):
        inputs_of(item, model)


def test_integers_for_embeddings_and_floats_behind_a_mask():
    ids = torch.ones(2, 5, dtype=torch.int64)
    assert inputs_of(ids, nn.Embedding(4, 2)).args[0].dtype == torch.int64
    late = nn.ModuleDict({"head": linear(), "embedding": nn.Embedding(4, 3)})
    Inputs(late).finish(Batch((ids,)))
    with pytest.raises(DataError, match="uint8"):
        Inputs(late).finish(Batch((ids.byte(),)))
    batch = inputs_of({"b": X, "a": LABELS}, Two())
    assert batch.kwargs["a"].dtype == torch.int64


# --------------------------------------------------------------------------------------- arrays and array files


def test_arrays_in_memory():
    for data in (X, X.numpy(), X.double().numpy()[:, ::-1], X.numpy().astype(">f8"), X.clone().requires_grad_()):
        source = unlabelled(data, linear())
        assert isinstance(source, ArraySource)
        assert source.deterministic
        assert_holds_x(source)
        assert unlabelled(source, linear()) is source
    assert "10 samples in memory, float32 3" in source.describe()
    both = unlabelled({"a": X, "b": X.numpy() + 1, "labels": LABELS[:3]}, Two())
    (_, batch), *_ = both.batches(4, torch.tensor([5]))
    assert (batch.kwargs["b"] - batch.kwargs["a"]).tolist() == [[1, 1, 1]]


def test_the_model_cannot_change_the_data():
    x = -torch.ones(4, 3)
    for data in (x, [x], x.numpy()):
        source = unlabelled(data, nn.Sequential(nn.ReLU(inplace=True), linear()))
        for _ in range(2):
            for _, batch in source.batches(4):
                assert (next(batch.tensors()) == -1).all()
                batch.run(nn.ReLU(inplace=True))
    assert (x == -1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_npy_is_mapped(tmp_path, dtype):
    np.save(tmp_path / "x.npy", X.numpy().astype(dtype))
    source = unlabelled(tmp_path / "x.npy", linear())
    assert isinstance(source._arrays.args[0], np.memmap)
    assert_holds_x(source)
    assert f"from {tmp_path / 'x.npy'}" in source.describe()
    assert_holds_x(unlabelled(str(tmp_path / "x.npy"), linear()))


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_files_of_several_arrays(tmp_path, suffix):
    def store(**arrays: Tensor) -> Path:
        path = tmp_path / f"data.{suffix}"
        if suffix == "npz":
            np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
        else:
            save_file(arrays, path)
        return path

    assert_holds_x(unlabelled(store(anything=X), linear()))
    assert_holds_x(unlabelled(store(pictures=X, labels=LABELS), linear()))
    assert_holds_x(unlabelled(store(images=X, features=X + 1, y=LABELS), linear()))
    assert_holds_x(unlabelled(store(data=X, features=X + 1), linear()))
    (_, batch), *_ = unlabelled(store(b=X + 1, a=X, extra=X + 2), Two()).batches(N)
    assert torch.equal(batch.kwargs["a"], X) and torch.equal(batch.kwargs["b"], X + 1)
    with pytest.raises(DataError, match=r"data\.\w+: it is not clear.*(p, q|q, p)"):
        unlabelled(store(p=X, q=X + 1), linear())


def test_unusable_files_and_data(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"1")
    (tmp_path / "bad.npy").write_bytes(b"not numpy")
    (tmp_path / "bad.npz").write_bytes(b"not numpy")
    (tmp_path / "bad.safetensors").write_bytes(b"short")
    (tmp_path / "one.jpg").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    for data, words in [
        (tmp_path / "missing", "no file or folder"),
        (tmp_path / "missing.npy", "no file or folder"),
        (tmp_path / "x.pt", r"not a kind of file.*\.npy, \.npz, \.safetensors"),
        (tmp_path / "bad.npy", "bad.npy cannot be read"),
        (tmp_path / "bad.npz", "bad.npz cannot be read"),
        (tmp_path / "bad.safetensors", "bad.safetensors cannot be read"),
        (tmp_path / "objects.npy", "cannot be read"),
        (tmp_path / "one.jpg", "a single picture"),
        (tmp_path / "empty", "no pictures in"),
        (X[:0], "empty"),
        (np.array(1.0), "first axis"),
        ({"a": X, "b": X[:2]}, "same number"),
        ([], "no samples"),
        ([X[:0]], "no samples"),
        (iter([]), "no samples"),
        (TensorDataset(X[:0]), "empty"),
        (DataLoader(TensorDataset(X), sampler=[]), "draws no sample"),
        (3, "cannot be of type int"),
        (None, "cannot be of type NoneType"),
        (b"bytes", "of type int"),
    ]:
        with pytest.raises(DataError, match=words):
            unlabelled(data, Two() if isinstance(data, dict) else linear())
    with pytest.raises(DataError, match="uint8"):
        unlabelled(np.zeros((2, 3, 8, 8), np.uint8), conv())


def test_orders_are_checked():
    source = unlabelled(X, linear())
    for order in (torch.tensor([N]), torch.tensor([-1]), torch.tensor([0.0]), torch.zeros(1, 1, dtype=torch.int64)):
        with pytest.raises(DataError, match="order"):
            source.batches(4, order)  # at once, not when the first batch is read
    with pytest.raises(DataError, match="batch_size"):
        source.batches(0)
    assert list(source.batches(4, torch.zeros(0, dtype=torch.int64))) == []


# ----------------------------------------------------------------------------------------- datasets and loaders


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
            if index == 5:
                raise OSError("disk on fire")
            return X[index]

    source = unlabelled(Broken(), linear())
    with pytest.raises(DataError, match="Broken.*OSError: disk on fire"):
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
    assert reads == [0]
    assert source.deterministic and source.deterministic
    assert len(reads) == 1 + 2 * min(N, sources_module.PROBED_SAMPLES)


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


# -------------------------------------------------------------------------------------------- what is read once


class DoublingLoader(DataLoader):
    """A loader whose batches are not those of its dataset."""

    def __iter__(self):
        return (batch[0] * 2 for batch in super().__iter__())


@pytest.mark.parametrize(
    "data",
    [[X[:4], X[4:]], (X[:4], X[4:]), [(X, LABELS)], [X.numpy()], DataLoader(Stream(), batch_size=3), Stream()]
    + [DoublingLoader(TensorDataset(X / 2), batch_size=3), DataLoader([X[:4], X[4:]], batch_size=None)],
)
def test_iterables_are_kept(data):
    source = unlabelled(data, linear())
    assert isinstance(source, BatchSource)
    assert source.deterministic
    assert not source.ragged
    assert_holds_x(source)
    assert "in memory, float32 3" in source.describe()


def test_a_generator_works_once_and_its_buffer_may_be_reused():
    def batches():
        buffer = torch.empty(2, 3)
        for start in range(0, N, 2):
            yield buffer.copy_(X[start : start + 2])

    once = batches()
    assert_holds_x(unlabelled(once, linear()))
    with pytest.raises(DataError, match="only once"):
        unlabelled(once, linear())


def test_several_inputs_are_kept_together():
    source = unlabelled(iter([(X[:3], X[:3] + 1, LABELS[:3]), (X[3:], X[3:] + 1, LABELS[3:])]), Two())
    order = torch.tensor([9, 1, 4, 1])
    ((indices, batch),) = source.batches(4, order)
    a, b = batch.args
    assert torch.equal(indices, order) and torch.equal(a, X[order]) and torch.equal(b, X[order] + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_spooling_to_disk(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("lloydmax.data.kept.SEGMENT_BYTES", 256)
    rows = (X.to(dtype)[i : i + 2] for i in range(0, N, 2))
    source = spool((Batch((row,)) for row in rows), "a test", workdir=tmp_path, memory_limit=15 * dtype.itemsize)
    assert list(tmp_path.iterdir())
    assert "on disk" in source.describe()
    order = torch.tensor([7, 0, 0, 9, 3])
    assert torch.equal(read(source, 3, order=order)[1], X.to(dtype)[order])
    del source
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_large_tensors_and_many_segments(tmp_path, monkeypatch):
    monkeypatch.setattr("lloydmax.data.kept.SEGMENT_BYTES", 64)
    source = spool((Batch((X[i : i + 5],)) for i in (0, 5)), "a test", workdir=tmp_path, memory_limit=0)
    assert_holds_x(source)  # 60 bytes a batch: the second needs a second file
    big = spool((Batch((X,)) for _ in range(2)), "a test", workdir=tmp_path, memory_limit=0)
    assert torch.equal(read(big)[1], torch.cat([X, X]))


def test_spooling_stops_at_the_limit_and_for_lack_of_space(tmp_path, monkeypatch):
    limits = {"workdir": tmp_path, "memory_limit": 100, "total_limit": 8 * X.nbytes}
    assert len(spool((Batch((X,)) for _ in range(8)), "a test", **limits)) == 8 * N
    with pytest.raises(DataError, match="pass a Dataset"):
        spool((Batch((X,)) for _ in range(9)), "a test", **limits)
    gc.collect()
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="set workdir"):
        spool([Batch((X,))], "a test", workdir=tmp_path / "missing", memory_limit=0)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DataError, match="No space left"):
        spool([Batch((X,))], "a test", workdir=tmp_path, memory_limit=0)


def padded() -> list[dict]:
    """Three batches of differing lengths; the ids are the numbers of the samples."""
    starts_and_lengths = [(0, 3, 5), (3, 2, 7), (5, 4, 2)]
    return [
        {"input_ids": torch.arange(s, s + n)[:, None].expand(n, t).contiguous(), "attention_mask": torch.ones(n, t)}
        for s, n, t in starts_and_lengths
    ]


def test_batches_of_differing_shapes_are_read_as_they_came():
    source = unlabelled(iter(padded()), Text())
    assert source.ragged and len(source) == 9
    assert [len(i) for i, _ in source.batches(100)] == [3, 2, 4]
    order = torch.tensor([8, 1, 5, 0, 8])
    pairs = list(source.batches(2, order, drop_last=True))
    assert [i.tolist() for i, _ in pairs] == [[8, 5, 8], [1, 0]]
    for indices, batch in pairs:
        assert torch.equal(batch.kwargs["input_ids"][:, 0], indices)
        assert batch.run(Text()).shape[:2] == batch.kwargs["attention_mask"].shape
    assert "differing shapes" in source.describe()


def test_inputs_that_a_whole_batch_shares_are_kept_with_it():
    batches = [Batch((X[:4], torch.tensor([1.0, 2.0]))), Batch((X[4:], torch.tensor([3.0, 4.0])))]
    source = spool(batches, "a test")
    pairs = {tuple(i.tolist()): b.args[1].tolist() for i, b in source.batches(3, torch.tensor([9, 0, 5]))}
    assert pairs == {(9, 5): [3, 4], (0,): [1, 2]}
    flags = spool([Batch((X,), {"flag": True}), Batch((X,), {"flag": False})], "a test")
    assert [b.kwargs["flag"] for _, b in flags.batches(N)] == [True, False]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.data())
def test_any_samples_of_any_batches(sizes, data):
    total = sum(sizes)
    values = torch.arange(total)
    source = spool((Batch((part,)) for part in values.split(sizes)), "a test")
    order = torch.tensor(data.draw(st.lists(st.integers(0, total - 1), max_size=20)), dtype=torch.int64)
    pairs = list(source.batches(data.draw(st.integers(1, 8)), order))
    assert [int(v) for _, b in pairs for v in b.args[0]] == order.tolist()
    source.ragged = True
    pairs = list(source.batches(1, order))
    assert all(torch.equal(i, b.args[0]) for i, b in pairs)
    assert sorted(int(k) for i, _ in pairs for k in i) == sorted(order.tolist())


# ----------------------------------------------------------------------------------------------------- pictures


def checkers(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pictures_are_prepared_as_torchvision_does(tmp_path):
    from torchvision.transforms import v2

    for number, size in enumerate([(50, 40), (31, 64), (40, 40), (300, 17)]):
        Image.fromarray(checkers(*size, number)).save(tmp_path / f"{number}.png")
    reference = v2.Compose(
        [v2.Resize(37), v2.CenterCrop(32), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        + [v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )
    folder = images(tmp_path, size=32)
    assert len(folder) == 4
    for number, picture in enumerate(folder):
        assert picture.shape == (3, 32, 32) and picture.dtype == torch.float32
        expected = reference(Image.open(tmp_path / f"{number}.png"))
        assert torch.allclose(picture, expected, atol=1e-5)
        if number == 3:
            break


def test_folders_are_searched_at_any_depth(tmp_path):
    for name in ("b/deep/2.JPG", "a/1.jpeg", "3.bmp", "a/4.webp", "a/5.tiff", "6.gif", "7.pgm"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path)
    for name in ("a/._1.jpeg", ".hidden/x.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not a picture")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    source = unlabelled(tmp_path, conv())
    assert len(source) == 7
    assert source.deterministic
    _, values = read(source)
    assert values.shape == (7, 3, 224, 224)
    line = source.describe()
    assert line.startswith(f"7 images from {tmp_path}, 224x224") and "ImageNet mean and std" in line
    assert source.dataset.files == images(tmp_path).files
    names = [str(file.relative_to(tmp_path)) for file in images(tmp_path).files]
    assert names == sorted(names)
    assert [f.name for f in images(tmp_path, limit=3).files] == [Path(names[i]).name for i in (0, 2, 4)]
    loader = DataLoader(images(tmp_path, size=8), batch_size=2)
    assert read(unlabelled(loader, conv()))[1].shape == (7, 3, 8, 8)


def test_folders_are_known_to_be_deterministic(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    source = unlabelled(images(tmp_path, size=8), conv())
    (tmp_path / "a.png").unlink()
    assert source.deterministic  # without reading


def test_grayscale_for_models_of_one_channel(tmp_path):
    Image.new("RGB", (10, 10), (255, 0, 0)).save(tmp_path / "red.png")
    Image.fromarray(np.full((10, 10), 40000, np.uint16)).save(tmp_path / "sixteen.png")
    source = unlabelled(tmp_path, conv(1))
    _, values = read(source)
    assert values.shape == (2, 1, 224, 224)
    assert values[0, 0, 0, 0].item() == pytest.approx((76 / 255 - 0.5) / 0.5)
    assert values[1, 0, 0, 0].item() == pytest.approx((156 / 255 - 0.5) / 0.5)  # scaled, not clipped
    assert "grayscale" in source.describe() and "mean 0.5 and std 0.5" in source.describe()
    plain = images(tmp_path, size=4, channels=1, mean=[0.0], std=[1.0])
    assert plain[0].max() <= 1
    with pytest.raises(DataError, match="1 or 3 channels, not 4"):
        unlabelled(tmp_path, conv(4))
    assert read(unlabelled(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(3, 1))))[1].shape[1] == 3


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "b.png")
    Image.new("P", (8, 8), 0).save(tmp_path / "c.png", transparency=0)
    Image.new("RGBA", (8, 8), (0, 0, 0, 255)).save(tmp_path / "d.png")
    folder = images(tmp_path, size=8, mean=[0.0] * 3, std=[1.0] * 3)
    assert [folder[i].mean().item() for i in range(4)] == [1, 1, 1, 0]


def test_exif_orientation_is_respected(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise: the left half is then on top
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    (picture,) = (images(tmp_path, size=16, resize=16, mean=[0.0] * 3, std=[1.0] * 3)[i] for i in (0,))
    assert picture[:, :8].mean() == 1 and picture[:, 8:].mean() == 0


@pytest.mark.parametrize("many", [256, 1])
def test_a_broken_picture_is_named(tmp_path, monkeypatch, many):
    monkeypatch.setattr("lloydmax.data.opening.MANY_PICTURES", many)  # 1: read by worker processes
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    source = unlabelled(images(tmp_path, size=8), conv())
    assert source._loading["num_workers"] == (0 if many == 256 else 2)
    assert len(next(source.batches(1))[1]) == 1
    with pytest.raises(DataError) as caught:
        read(source)
    assert str(caught.value).startswith(f"the picture {tmp_path / 'b.png'} cannot be read")
    assert "Traceback" not in str(caught.value)


def test_options_of_images_are_checked(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for options in (
        {"channels": 2},
        {"mean": [0.5]},
        {"std": [0.0, 1.0, 1.0]},
        {"size": 0},
        {"size": 8, "resize": 4},
        {"limit": 0},
        {"workers": -1},
    ):
        with pytest.raises(DataError):
            images(tmp_path, **options)
    with pytest.raises(DataError, match="no folder"):
        images(tmp_path / "missing")
    with pytest.raises(DataError, match="not a folder"):
        images(tmp_path / "a.png")


# ---------------------------------------------------------------------------------------------- captured inputs


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_inputs_of_a_calibration_are_captured(mode):
    model = Two()
    with capture_inputs(model) as captured, mode():
        buffer = torch.empty(2, 3)
        for start in range(0, N, 2):
            buffer.copy_(X[start : start + 2])
            model(buffer, b=buffer + 1, scale=2.0)
    model(X, X)
    assert len(captured) == N
    source = captured.source()
    assert_holds_x(source)
    (_, batch), *_ = source.batches(N)
    assert torch.equal(batch.kwargs["b"], X + 1) and batch.kwargs["scale"] == 2.0
    held = [tensor for kept in captured.batches for tensor in kept.tensors()]
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in held)
    batch.run(model).sum().backward()  # usable for training, wherever they were captured
    assert "captured from calls of Two" in source.describe()


def test_capturing_drops_labels_and_stops_at_its_limit():
    text = Text()
    ids = torch.ones(2, 5, dtype=torch.int64)
    with capture_inputs(text) as captured:
        text(input_ids=ids, attention_mask=torch.ones(2, 5), labels=None)
    assert set(captured.batches[0].kwargs) == {"input_ids", "attention_mask"}
    model = linear()
    with capture_inputs(model, limit_bytes=X.nbytes * 2) as captured, pytest.warns(UserWarning) as warned:
        for _ in range(5):
            model(X)
    assert len(warned) == 1 and "first 20 samples" in str(warned[0].message)
    assert len(captured.source()) == 2 * N


def test_capturing_nothing_is_an_error():
    model = nn.Sequential(linear())
    with capture_inputs(model) as captured:
        model[0](X)
    with pytest.raises(DataError, match="no inputs were captured"):
        captured.source()
    assert not model._forward_pre_hooks


# ------------------------------------------------------------------------------------------------------- orders


def test_random_orders_and_splits():
    order = random_order(100, 30, seed=3)
    assert order.dtype == torch.int64 and len(set(order.tolist())) == 30
    assert torch.equal(order, random_order(100, 30, seed=3))
    assert not torch.equal(order, random_order(100, 30, seed=4))
    assert sorted(random_order(5, 9).tolist()) == sorted(random_order(5).tolist()) == list(range(5))
    train, held = split(unlabelled(X, linear()), 3, seed=1)
    assert len(held) == 3
    assert sorted(train.tolist() + held.tolist()) == list(range(N))
    assert len(split(X, 0)[1]) == 0
    for held_out in (N, -1):
        with pytest.raises(DataError, match="hold out"):
            split(X, held_out)


def test_importing_is_cheap():
    package = Path(sources_module.__file__).parents[1]
    code = (
        "import sys, types; package = types.ModuleType('lloydmax'); "
        f"package.__path__ = [{str(package)!r}]; sys.modules['lloydmax'] = package; import lloydmax.data; "
        "assert not {'torchvision', 'PIL', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_models_that_view_a_convolutions_output_run_on_channels_last_batches(channels: int) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).view(len(x), -1)

    model, x = Views(), torch.randn(2, channels, 8, 8)
    batch = Batch((x,)).to("cpu", channels_last=True)
    for _ in range(2):
        torch.testing.assert_close(batch.run(model), model(x))
    with pytest.raises(RuntimeError, match="expected input"):
        Batch((torch.cat([x, x], 1),)).to("cpu", channels_last=True).run(model)
