"""Arrays and array files as unlabelled data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lloydmax.data import ArraySource, Batch, unlabelled
from lloydmax.errors import DataError
from safetensors.torch import save_file
from samples import LABELS, N, Two, X, assert_holds_x, linear
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


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
    (tmp_path / "x.tar.gz").write_bytes(b"1")
    (tmp_path / "bad.npy").write_bytes(b"not numpy")
    (tmp_path / "bad.npz").write_bytes(b"not numpy")
    (tmp_path / "bad.safetensors").write_bytes(b"short")
    (tmp_path / "one.jpg").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    for data, words in [
        (tmp_path / "missing", "no file or folder"),
        (tmp_path / "missing.npy", "no file or folder"),
        (tmp_path / "x.tar.gz", "is an archive: unpack it"),
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


def test_orders_are_checked():
    source = unlabelled(X, linear())
    for order in (torch.tensor([N]), torch.tensor([-1]), torch.tensor([0.0]), torch.zeros(1, 1, dtype=torch.int64)):
        with pytest.raises(DataError, match="order"):
            source.batches(4, order)  # at once, not when the first batch is read
    with pytest.raises(DataError, match="batch_size"):
        source.batches(0)
    assert list(source.batches(4, torch.zeros(0, dtype=torch.int64))) == []


@pytest.mark.filterwarnings("ignore:.*(nested tensors|Sparse CSR):UserWarning")
def test_tensors_without_rows_or_values():
    x = torch.eye(3)
    jagged, strided = (
        torch.nested.nested_tensor([x, x[:2]], layout=layout) for layout in (torch.jagged, torch.strided)
    )
    for tensor, cure in (
        *((sparse, "to_dense") for sparse in (x.to_sparse(), x.to_sparse_csr())),
        *((nested, "to_padded_tensor") for nested in (jagged, strided)),
        (torch.empty(4, 3, device="meta"), "real ones"),
    ):
        for data in (tensor, {"input": tensor}, [tensor] * 3, [(tensor, 1)] * 3, iter([tensor])):
            with pytest.raises(DataError, match=cure):
                unlabelled(data, linear())
    with pytest.raises(DataError, match="to_dense"):
        unlabelled([Batch((x.to_sparse(),), whole=True)], linear())
