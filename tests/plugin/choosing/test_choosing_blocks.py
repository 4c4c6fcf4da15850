"""Sweep and search over vector codebooks."""

from __future__ import annotations

import lloydmax
from conftest import SmallNet
from torch import Tensor


def test_sweep_and_search(small_net: SmallNet, pictures: Tensor) -> None:
    recipe = {"quantize": [{"layers": ["padded", "head.*"], "centroids": [2, 4, 16], "block": 4}]}
    sweep = lloydmax.sweep(small_net, recipe, pictures, samples=32)
    rows = {(row.unit, row.centroids): row for row in sweep.rows}
    assert rows["padded.weight", 16].bits == 1 and rows["padded.weight", 4].bytes == 72 + 4 * 4 * 4
    found = lloydmax.search(small_net, recipe, pictures, {"bits": 0.9}, samples=32)
    assert all(rule.options["block"] == 4 for rule in found.recipe.quantize)
    result = lloydmax.compress(small_net, found.recipe, progress=False)
    assert result.report.bytes.file == lloydmax.plan(small_net, found.recipe).predicted_bytes
