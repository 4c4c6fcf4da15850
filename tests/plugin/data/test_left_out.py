"""Samples that cannot be used: left out wherever they are read, counted, named once, too many refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from lloydmax.data import Batch, Source, unlabelled
from lloydmax.errors import DataError
from samples import Two, linear
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

MANY = 240
GOOD = torch.arange(MANY, dtype=torch.float32)[:, None] * torch.ones(3)
BAD = {7: math.nan, 100: math.inf}


def broken() -> Tensor:
    values = GOOD.clone()
    for index, value in BAD.items():
        values[index, 1] = value
    return values


class Own(Source):
    """A source of a user, who looks at nothing."""

    deterministic = True

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def describe(self) -> str:
        return "my own"

    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        for rows in order.split(batch_size):
            yield rows, Batch((self.values[rows],))


class Items(Dataset):
    """Items, some of which are exceptions to raise."""

    def __init__(self, items) -> None:
        self.items = list(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


@contextmanager
def telling() -> Iterator[list[str]]:
    """The warnings of a block, and no others."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        messages: list[str] = []
        yield messages
        messages += [str(warning.message) for warning in told]


def forms(tmp_path) -> dict[str, object]:
    np.save(tmp_path / "x.npy", broken().numpy())
    return {
        "tensor": broken(),
        "mapped": tmp_path / "x.npy",
        "list": list(broken().split(16)),
        "generator": iter(broken().split(16)),
        "dataset": TensorDataset(broken(), torch.arange(MANY)),
        "loader": DataLoader(TensorDataset(broken()), batch_size=16),
        "workers": DataLoader(TensorDataset(broken()), batch_size=16, num_workers=2),
        "own": Own(broken()),
    }


@pytest.mark.parametrize("form", ["tensor", "mapped", "list", "generator", "dataset", "loader", "workers", "own"])
def test_a_sample_that_is_not_finite_is_left_out_of_every_pass(form, tmp_path):
    order = torch.randperm(MANY, generator=torch.Generator().manual_seed(3))
    with telling() as told:
        source = unlabelled(forms(tmp_path)[form], linear())
        for _ in range(2):
            pairs = list(source.batches(16, order, drop_last=True))
            indices = torch.cat([rows for rows, _ in pairs])
            assert indices.tolist() == [index for index in order.tolist() if index not in BAD]
            assert torch.equal(torch.cat([batch.args[0] for _, batch in pairs]), GOOD[indices])
    (message,) = told
    assert "2 of 240 samples left out" in message
    assert "sample 7 (NaN)" in message and "sample 100 (infinite)" in message
    assert source.figures() == {"samples": MANY, "left_out": 2, "which": {"7": "NaN", "100": "infinite"}}
    assert len(source) == MANY and source.first(8).args[0].shape == (7, 3)


def test_what_a_pass_that_ends_early_finds_is_told_by_those_who_end_it():
    source = unlabelled(DataLoader(TensorDataset(broken())), linear())
    with pytest.warns(UserWarning, match="1 of 240 samples left out.*sample 7"):
        assert len(source.first(8)) == 7
    for _ in source.batches(200):
        break
    with pytest.warns(UserWarning, match="2 in all now.*sample 100"):
        source.tell()


def test_batches_without_any_good_sample_do_not_come():
    values = GOOD.clone()
    values[:2] = math.nan
    with pytest.warns(UserWarning, match=r"samples 0, 1 \(NaN\)"):
        source = unlabelled(values, linear())
    assert [rows.tolist() for rows, _ in source.batches(2, torch.arange(6))] == [[2, 3], [4, 5]]
    assert list(source.batches(1, torch.tensor([1]))) == []
    assert source.first(2).args[0][:, 0].tolist() == [2, 3]
    with pytest.raises(DataError, match=r"none of the 2 samples asked for.*samples 0, 1 \(NaN\)"):
        list(source.batches(2, torch.tensor([1, 0])))


@pytest.mark.parametrize("count", [2, 3])
def test_more_than_one_in_a_hundred_is_an_error(count):
    values = GOOD.clone()
    values[:count] = math.nan
    if count == 2:  # 0.8 %
        with pytest.warns(UserWarning, match="2 of 240"):
            unlabelled(values, linear())
    else:
        for data in (values, iter(values.split(16))):
            with pytest.raises(
                DataError, match=r"3 of 240 samples cannot be used, more than 1%.*samples 0, 1, 2 \(NaN\)"
            ):
                unlabelled(data, linear())
        source = unlabelled(DataLoader(TensorDataset(values), batch_size=16), linear())
        with pytest.raises(DataError, match=r"3 of 240"):
            list(source.batches(16))


def test_one_may_be_bad_but_not_the_only_one():
    values = GOOD[:5].clone()
    values[4] = math.nan
    with pytest.warns(UserWarning, match="1 of 5"):
        unlabelled(values, linear())
    with pytest.raises(DataError, match="none of the samples can be used"):
        unlabelled(values[4:], linear())


def test_a_large_source_is_judged_by_what_was_read():
    values = torch.zeros(200_000, 1)
    values[::3] = math.nan
    source = Own(values)
    with pytest.raises(DataError, match="of 1,500 samples that were read"):
        list(source.batches(64, torch.arange(1500)))


def test_data_that_differ_each_time_are_judged_pass_by_pass():
    class Noisy(Items):
        reads = 0

        def __getitem__(self, index: int):
            Noisy.reads += 1
            return GOOD[index] + (math.nan if Noisy.reads % 150 == 0 else torch.rand(1))

    source = unlabelled(Noisy(range(MANY)), linear())
    assert not source.deterministic
    with telling() as told:
        for _ in range(6):
            list(source.batches(16))
    assert len(source.left_out) > 3 and all("left out" in message for message in told)


def test_float16_ends_early():
    values = GOOD.clone()
    values[5, 0] = 1e6
    with pytest.warns(UserWarning, match=r"sample 5 \(infinite in float16, which ends at 65,504\)"):
        unlabelled(values, linear().half())


def test_minus_infinity_masks_but_is_no_value():
    mask = torch.zeros(MANY, 3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
    values = GOOD[:, None, :].expand(-1, 3, -1).clone()
    with telling() as told:
        source = unlabelled({"a": values, "b": mask}, Two())
    assert not told and len(source.left_out) == 0
    values[9, 0, 0], mask[11, 2, 2] = -math.inf, math.nan
    with pytest.warns(UserWarning, match=r"sample 9 \(infinite in 'a'\), sample 11 \(NaN in 'b'\)"):
        unlabelled({"a": values, "b": mask}, Two())
    with pytest.raises(DataError, match="none"):
        unlabelled(mask, linear())  # alone it masks nothing


def test_large_sums_and_integers_are_no_fault():
    with telling() as told:
        unlabelled(torch.full((8, 3), 3e38), linear())
        unlabelled(torch.full((8, 3), 2**62), nn.Embedding(2, 2))
    assert not told


@pytest.mark.parametrize("collate", [None, lambda items: torch.stack(items)])
def test_items_that_cannot_be_read_or_do_not_fit(collate):
    items: list[object] = list(GOOD)
    items[3], items[50] = OSError("gone"), None if collate is None else torch.ones(4)
    source = unlabelled(DataLoader(Items(items), batch_size=8, collate_fn=collate or default_collate), linear())
    if collate is not None:  # the user's own: alone each item can be collated, so that none is to blame
        with pytest.raises(DataError, match="stack expects each tensor to be equal size"):
            list(source.batches(8))
        return
    with pytest.warns(UserWarning, match=r"sample 3 \(OSError: gone\), sample 50 \(the dataset gave None\)"):
        assert torch.cat([rows for rows, _ in source.batches(8)]).tolist() == [
            index for index in range(MANY) if index not in (3, 50)
        ]


@pytest.mark.parametrize(
    ("item", "words"),
    [(torch.ones(4), "floats 4, others are floats 3"), (torch.ones(3, dtype=torch.uint8), "integers 3, others are")],
)
@pytest.mark.parametrize("index", [0, 130])
def test_items_of_another_size_or_of_other_numbers(item, words, index):
    items = list(GOOD)
    items[index] = item
    with pytest.warns(UserWarning, match=rf"1 of 240 samples left out.*sample {index} \({words}"):
        source = unlabelled(Items(items), linear())
        assert len(torch.cat([rows for rows, _ in source.batches(16)])) == MANY - 1
    with pytest.raises(DataError, match="collate_fn"):
        list(unlabelled(Items([torch.ones(1 + n % 9) for n in range(90)]), linear()).batches(8))


def test_what_a_collate_fn_drops_is_left_out():
    def dropping(items):
        return torch.stack([item for item in items if item[0] != 9])

    source = unlabelled(DataLoader(Items(GOOD), batch_size=16, collate_fn=dropping), linear())
    with pytest.warns(UserWarning, match=r"sample 9 \(collate_fn dropped it\)"):
        pairs = list(source.batches(16))
    assert all(torch.equal(batch.args[0][:, 0], rows.float()) for rows, batch in pairs)


def test_a_batch_of_other_numbers_is_left_out_or_refused():
    parts = [GOOD] * 10 + [torch.ones(10, 3, dtype=torch.uint8)]
    with pytest.warns(
        UserWarning, match=r"10 of 2,410 .*\(input 1: integers with 2 axes, others are floats with 2 axes\)"
    ):
        source = unlabelled(parts, linear())
    assert len(torch.cat([rows for rows, _ in source.batches(64)])) == 10 * MANY
    own = Own(GOOD)
    list(own.batches(64))
    own.values = GOOD.long()
    with pytest.raises(DataError, match=r"samples 0, 1, .* integers with 2 axes in input 1, those before had floats"):
        list(own.batches(64))


def test_rows_as_hugging_face_has_them():
    class Named(nn.Module):
        def forward(self, input_ids, attention_mask=None):
            return input_ids

    rows = [
        {"input_ids": [n, n + 1], "attention_mask": [1, 1], "label": 0, "none": None, "text": "x"} for n in range(9)
    ]
    batch = unlabelled(Items(rows), Named()).first(4)
    assert batch.kwargs["input_ids"].tolist() == [[n, n + 1] for n in range(4)]
    assert set(batch.kwargs) == {"input_ids", "attention_mask"}


def test_wholes_are_left_out_whole():
    graphs = [Batch((torch.ones(n + 1, 3), torch.ones(2, n, dtype=torch.int64)), whole=True) for n in range(20)]
    graphs[4].args[0][0, 0] = math.nan
    with pytest.warns(UserWarning, match=r"1 of 20 samples left out.*sample 4 \(NaN in input 1\)"):
        source = unlabelled(graphs, Two())
    pairs = list(source.batches(8))
    assert [rows.tolist() for rows, _ in pairs] == [[n] for n in range(20) if n != 4]
    assert pairs[-1][1].args[0].shape == (20, 3)


def test_datasets_that_workers_set_up_see_what_is_set():
    class Shifted(Items):
        shift = 0.0

        def __getitem__(self, index: int):
            return super().__getitem__(index) + self.shift

    source = unlabelled(DataLoader(Shifted(GOOD), num_workers=1, worker_init_fn=_shift), linear())
    assert torch.equal(source.first(4).args[0], GOOD[:4] + 1)


def _shift(worker: int) -> None:
    info = torch.utils.data.get_worker_info()
    assert info is not None
    info.dataset.shift = info.dataset.shift + 1.0  # type: ignore[attr-defined]
