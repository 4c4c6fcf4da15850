"""Every format with the networks that people have: ResNet-18, MobileNet-v2, EfficientNet-Lite0, MiniLM."""

from __future__ import annotations

from pathlib import Path

import lloydmax
import pytest
from exports import NETWORKS, measure
from lloydmax.exporting.formats import FORMATS
from lookup_tables import check_lookup_tables

LIMITS = {"torch": 0.45, "onnx": 0.2, "openvino": 0.22, "coreml": 0.2, "executorch": 0.45}
"""Largest share of the float32 tensors; uint8 codes take a quarter, 4-bit codes an eighth."""


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", FORMATS)
def test_small_and_the_same(network: str, name: str, tmp_path: Path) -> None:
    if name == "executorch":
        pytest.importorskip("executorch.exir")
    row = measure(NETWORKS[network], [name], tmp_path)
    made = row.exports[name]
    assert isinstance(made, lloydmax.Export), made
    assert made.bytes < LIMITS[name] * row.float32
    if name == "coreml":
        assert made.difference is None
        check_lookup_tables(Path(made.path), NETWORKS[network].compressed(), 1e-3)
    else:
        assert made.difference is not None and made.difference < 1e-4
    if name == "onnx":
        assert made.bytes <= 1.05 * row.ours + row.graph
