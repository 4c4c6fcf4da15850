"""What a file holds, without a model."""

import dataclasses

import pytest
from coded import SMALL, compressed
from lloydmax import checkpoint
from lloydmax.checkpoint import save


@pytest.fixture
def saved(small_net, tmp_path):
    path = tmp_path / "small.safetensors"
    save(compressed(small_net, SMALL), path)
    return path


def test_inspection_reads_and_prints(saved, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    found = checkpoint.inspect(saved)
    assert dataclasses.asdict(found).items() <= found.to_dict().items()
    by_name = {item.name: item for item in found.parameters}
    item = by_name["padded.weight"]
    assert (item.k, item.bits, item.granularity, item.shape) == (300, 9, "group:3", (16, 8, 3, 3))
    assert item.bytes == 6 * 300 * 4 + -(-16 * 8 * 9 * 9 // 8)
    text = str(found)
    assert "padded.weight" in text and "16x8x3x3" in text and "group:3" in text
