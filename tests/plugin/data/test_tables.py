"""Tables in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lloydmax import DataError
from lloydmax.data import unlabelled
from torch import Tensor, nn

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, b: Tensor, a: Tensor) -> Tensor:
        return self.layer(torch.stack([a, b], 1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(256, 4), nn.Linear(4, 256)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


@pytest.fixture
def table() -> pd.DataFrame:
    values = np.arange(40).reshape(20, 2) / 7
    return pd.DataFrame({"a": values[:, 0], "b": values[:, 1], "target": range(20)})


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_columns_are_inputs_but_labels(tmp_path: Path, table: pd.DataFrame, name: str) -> None:
    if name.endswith("parquet"):
        table.to_parquet(tmp_path / name)
    else:
        table.to_csv(tmp_path / name, index=False, sep="\t" if name.endswith("tsv") else ",")
    together = unlabelled(tmp_path / name, nn.Linear(2, 3)).first(20).args[0]
    wanted = torch.tensor(table[["a", "b"]].to_numpy(), dtype=torch.float32)
    assert torch.equal(together, wanted)
    named = unlabelled(tmp_path / name, Named()).first(20).kwargs
    assert torch.equal(named["b"], wanted[:, 1]) and set(named) == {"a", "b"}


def test_a_column_of_texts(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["some words"] * 60, "label": 1}).to_csv(tmp_path / "t.csv", index=False)
    source = unlabelled(tmp_path / "t.csv", Words(), tokenizer=lambda text: list(text.encode()))
    assert next(source.first(1).tensors()).dtype == torch.int64


def test_what_cannot_be_read_is_one_line(tmp_path: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    table.assign(city="x").to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="the columns 'city' are not of numbers: encode them"):
        unlabelled(tmp_path / "t.csv", nn.Linear(2, 3))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"bad\.parquet cannot be read as a table"):
        unlabelled(tmp_path / "bad.parquet", nn.Linear(2, 3))
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(DataError, match=r"pip install \"lloydmax\[tables\]\""):
        unlabelled(tmp_path / "t.csv", nn.Linear(2, 3))
