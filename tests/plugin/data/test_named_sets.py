"""Sets of Hugging Face's datasets, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from lloydmax import DataError
from lloydmax.cli.inputs import data_of
from lloydmax.cli.pictures import Pictures
from lloydmax.data import unlabelled
from PIL import Image
from torch import nn

datasets = pytest.importorskip("datasets")


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_set_that_was_saved(tmp_path: Path) -> None:
    rows = {"img": [Image.new("RGB", (40, 30), (40 * n, 9, 9)) for n in range(5)], "label": list(range(5))}
    kinds = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    whole = datasets.Dataset.from_dict(rows, features=kinds)
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": whole}).save_to_disk(tmp_path / "parts")
    how = Pictures(size="16", tell=False)
    found = data_of(f"datasets:{tmp_path / 'one'}", net(), how)
    assert next(unlabelled(found, net()).first(5).tensors()).shape == (5, 3, 16, 16) and "5 images" in found.describe()
    assert len(data_of(f"datasets:{tmp_path / 'parts'}:test", net(), how)) == 5
    with pytest.raises(DataError, match="has no split 'train', but test"):
        data_of(f"datasets:{tmp_path / 'parts'}", net(), how)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        data_of(f"datasets:{tmp_path / 'none'}", net(), how)


def test_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        data_of("datasets:x", net(), Pictures(tell=False))
