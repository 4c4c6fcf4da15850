"""Bits and bytes of a layer are those of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from torch import nn


@pytest.mark.parametrize(
    "storage",
    [{}, {"codes": "entropy"}, {"codes": "entropy", "floats": "float16", "layout": "compact", "codebooks": "int8"}],
)
@pytest.mark.parametrize(
    "options", [{"centroids": 24}, {"centroids": 5, "granularity": "channel"}, {"quantizer": "uniform"}]
)
def test_bytes_are_those_of_the_file(storage: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, 90), nn.ReLU(), nn.Linear(90, 30))
    result = lloydmax.compress(net, {"quantize": [{"layers": "all", **options}], "storage": storage}, progress=False)
    result.save(tmp_path / "net.safetensors")
    stored = {p.name: p for p in lloydmax.inspect(tmp_path / "net.safetensors").parameters}
    assert {layer.name: layer.bytes for layer in result.report.layers} == {n: p.bytes for n, p in stored.items()}
    for layer in result.report.layers:
        if stored[layer.name].coding == "packed":
            assert layer.bits == stored[layer.name].bits
        else:
            assert 0 < layer.bits < stored[layer.name].bits
    assert sum(layer.bytes for layer in result.report.layers) < result.report.bytes.file
    file = (tmp_path / "net.safetensors").stat().st_size
    assert result.report.bytes.file == file and result.report.bits == 8 * file / (50 * 90 + 90 + 90 * 30 + 30)
    assert f"{result.report.bits:.2f} bits of file for each of 7,320 weights" in str(result.report)
