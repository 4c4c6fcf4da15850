"""What can be read only once is kept: in memory, on disk, in batches of differing shapes."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax.data import Batch, BatchSource, spool, unlabelled
from lloydmax.errors import DataError
from samples import LABELS, N, Stream, Text, Two, X, assert_holds_x, linear, read
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


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
    source = BatchSource([Batch((), batch) for batch in padded()], "a test")
    assert source.ragged and len(source) == 9
    assert [len(i) for i, _ in source.batches(100)] == [3, 2, 4]
    order = torch.tensor([8, 1, 5, 0, 8])
    pairs = list(source.batches(2, order, drop_last=True))
    assert [i.tolist() for i, _ in pairs] == [[8, 5, 8], [1, 0]]
    for indices, batch in pairs:
        assert torch.equal(batch.kwargs["input_ids"][:, 0], indices)
        assert batch.run(Text()).shape[:2] == batch.kwargs["attention_mask"].shape
    assert "differing shapes" in source.describe()


def test_batches_padded_to_several_lengths_are_read_together():
    source = unlabelled(iter(padded()), Text())
    assert not source.ragged and source.varies and "differing shapes" in source.describe()
    order = torch.tensor([8, 1, 5, 0, 3])
    (first, batch), (rest, last) = source.batches(4, order)
    assert first.tolist() == [8, 1, 5, 0] and rest.tolist() == [3]
    assert batch.kwargs["attention_mask"].sum(1).tolist() == [2, 5, 2, 5]
    assert batch.kwargs["input_ids"].shape == (4, 5) and last.kwargs["input_ids"].shape == (1, 7)
    assert batch.kwargs["input_ids"][:, 0].tolist() == [8, 1, 5, 0]
    assert len(next(source.batches(4, order, drop_last=True))[0]) == 4


def test_inputs_that_a_whole_batch_shares_are_kept_with_it():
    batches = [Batch((X[:4], torch.tensor([1.0, 2.0]))), Batch((X[4:], torch.tensor([3.0, 4.0])))]
    source = spool(batches, "a test")
    pairs = {tuple(i.tolist()): b.args[1].tolist() for i, b in source.batches(3, torch.tensor([9, 0, 5]))}
    assert pairs == {(9, 5): [3, 4], (0,): [1, 2]}
    flags = spool([Batch((X,), {"flag": True}), Batch((X,), {"flag": False})], "a test")
    assert [b.kwargs["flag"] for _, b in flags.batches(N)] == [True, False]


def test_the_model_cannot_change_what_is_kept():
    batches = [Batch((X[:4].clone(), torch.ones(3))), Batch((X[4:].clone(), torch.ones(3)))]
    for source in (spool(batches, "a test"), spool([Batch((X.clone(),))], "a test")):
        for _ in range(2):
            for indices, batch in source.batches(3, torch.tensor([5, 0, 9])):
                assert torch.equal(batch.args[0], X[indices])
                assert all(bool((shared == 1).all()) for shared in batch.args[1:])
                for tensor in batch.tensors():
                    tensor.zero_()


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


class Items(IterableDataset):
    def __init__(self, items) -> None:
        self.items = items

    def __iter__(self):
        return iter(self.items)


def test_bad_items_of_what_is_read_once_are_left_out_and_named():
    items: list = [torch.full((3,), float(number)) for number in range(240)]
    items[7], items[70] = None, torch.ones(5)
    with pytest.warns(UserWarning, match="sample 7 .the dataset gave None.*sample 70 .floats 5, others are floats 3"):
        source = unlabelled(Items(items), linear())
    indices, values = read(source)
    assert indices.tolist() == values[:, 0].tolist() == [number for number in range(240) if number not in (7, 70)]
    indices, values = read(source, order=torch.tensor([100, 7, 3]))
    assert indices.tolist() == values[:, 0].tolist() == [100, 3]
    for give in (list, iter):
        batches: list = [torch.full((2, 3), float(number)) for number in range(120)]
        batches[3] = None
        with pytest.warns(UserWarning, match="sample 6 .batch 3 is None"):
            assert len(read(unlabelled(give(batches), linear()))[0]) == 238
    for refused, words in (
        ([None] * 3, "cannot be read: sample 0 .batch 0 is None"),
        ([*batches, "text"], "batch 120: .*of type str"),
    ):
        with pytest.raises(DataError, match=words):
            unlabelled(refused, linear())
    with pytest.raises(DataError, match="gave None"):
        unlabelled(Items([None] * 3), linear())
