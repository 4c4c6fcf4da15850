"""Odd data: one line that says what is wrong, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lloydmax.data.kept
import numpy as np
import pytest
import torch
from lloydmax.data import unlabelled
from lloydmax.errors import DataError
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))


class Items(Dataset[Any]):
    def __init__(self, length: Any, item: Callable[[int], Any] = lambda i: X[i % 32]) -> None:
        self.length, self.item = length, item

    def __len__(self) -> int:
        if isinstance(self.length, Exception):
            raise self.length
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield X[0]
        raise ValueError("broken")


class NotIterable:
    def __iter__(self) -> Iterator[Any]:
        return 3  # type: ignore[return-value]


def breaking(error: BaseException) -> Iterator[Any]:
    yield X[:4]
    raise error


def used() -> Iterator[Any]:
    items = iter([X[:4]])
    list(items)
    return items


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.randn(8, 8)


def past_the_end(index: int) -> Tensor:
    return X[:4][index]


DATA: dict[str, Callable[[], Any]] = {
    "sparse": X.to_sparse,
    "csr": X.to_sparse_csr,
    "batches of csr": lambda: [X.to_sparse_csr()],
    "mkldnn": X.to_mkldnn,
    "nested": lambda: torch.nested.nested_tensor([X, X[:2]], layout=torch.strided),
    "meta": lambda: X.to("meta"),
    "fake": fake,
    "batches of fake": lambda: [fake()],
    "empty": lambda: X[:0],
    "one number": lambda: torch.tensor(1.0),
    "NaN": lambda: X * torch.nan,
    "objects": lambda: np.array([object()] * 3),
    "text": lambda: np.array(["a", "b"]),
    "records": lambda: np.zeros(3, dtype=[("a", "f4")]),
    "generator that is used up": used,
    "generator that breaks": lambda: breaking(ValueError("mid\nsecond line")),
    "generator of a StopIteration": lambda: breaking(StopIteration()),
    "generator without memory": lambda: breaking(MemoryError()),
    "generator of None": lambda: (None for _ in range(3)),
    "generator of text": lambda: ("x" for _ in range(3)),
    "stream that breaks": Stream,
    "loader of a stream that breaks": lambda: DataLoader(Stream()),
    "loader without batches": lambda: DataLoader(TensorDataset(X[:0]), batch_size=4),
    "list without batches": list,
    "nothing": dict,
    "wrong names": lambda: {"foo": X, "bar": X},
    "number": lambda: 3,
    "function": lambda: lambda: X,
    "class": lambda: Items,
    "bytes": lambda: b"abc",
    "no path": lambda: "",
    "long path": lambda: "x" * 5000,
    "path with NUL": lambda: "a\0b",
    "path with a line break": lambda: "a\nb.npy",
    "no iterator": NotIterable,
    "length too large": lambda: Items(16, past_the_end),
    "negative length": lambda: Items(-1),
    "no length": lambda: Items(ValueError("no length")),
    "length not told": lambda: Items(NotImplementedError()),
    "length in text": lambda: Items("3"),
    "length of a float": lambda: Items(8.0),
    "length 0": lambda: Items(0),
    "endless length": lambda: Items(2**40),
    "length beyond numbers": lambda: Items(2**70),
    "samples of None": lambda: Items(8, lambda _: None),
    "samples of text": lambda: Items(8, lambda _: "hello"),
    "samples that stop": lambda: Items(8, lambda _: next(iter([]))),
    "samples on meta": lambda: Items(8, lambda i: X[i].to("meta")),
    "sparse samples": lambda: Items(8, lambda i: X[i].to_sparse()),
    "collation that fails": lambda: DataLoader(TensorDataset(X), collate_fn=lambda _: 1 / 0),
    "collation to None": lambda: DataLoader(TensorDataset(X), collate_fn=lambda _: None),
    "sampler beyond the end": lambda: DataLoader(TensorDataset(X), sampler=[0, 99, 98]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DATA)
def test_odd_data(kind: str) -> None:
    with pytest.raises(DataError) as error:
        source = unlabelled(DATA[kind](), nn.Linear(8, 4))
        source.look_through(8)
    assert len(str(error.value).splitlines()) == 1


def test_a_worker_tells_what_failed_and_not_where() -> None:
    def fail(_: Any) -> Any:
        raise ValueError("this one")

    with pytest.raises(DataError, match=r"cannot be read: ValueError: this one$|ValueError: this one") as error:
        unlabelled(DataLoader(Items(8), collate_fn=fail, num_workers=1), nn.Linear(8, 4)).look_through(4)
    assert "Traceback" not in str(error.value) and len(str(error.value).splitlines()) == 1


def test_an_iterator_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lloydmax.data.kept, "MOST_BATCHES", 50)
    given = []

    def endless() -> Iterator[Tensor]:
        while True:
            given.append(1)
            yield X[:4]

    with pytest.raises(DataError, match="more than 50 batches, or does not end"):
        unlabelled(endless(), nn.Linear(8, 4))
    assert len(given) == 51
    monkeypatch.setattr(lloydmax.data.kept, "MOST_BATCHES", 4)
    assert len(unlabelled(iter([X[:4]] * 4), nn.Linear(8, 4))) == 16


@pytest.mark.parametrize(
    "kind",
    [
        X.double,
        X.half,
        X.t,
        X.clone().requires_grad_,
        lambda: X.clone().requires_grad_() * 2,
        lambda: X[:1].expand(9, 8),
    ],
)
def test_unusual_tensors_that_are_data_all_the_same(kind: Callable[[], Tensor]) -> None:
    data = kind()
    source = unlabelled(data, nn.Linear(data.shape[1], 4))
    (batch,) = source.first(2).args
    assert batch.dtype == torch.float32 and not batch.requires_grad
    assert torch.equal(batch, data[:2].detach().float())
