"""What a report says about what it measured."""

from __future__ import annotations

import lloydmax
import torch
from torch import nn


def test_it_names_how_many_of_the_inputs_the_agreement_is_of() -> None:
    net, recipe = nn.Linear(4, 3), {"quantize": [{"layers": "all", "centroids": 2}]}
    for count, said in ((50, "50 samples in memory"), (1500, "1,000 of 1,500 samples in memory")):
        report = lloydmax.compress(net, recipe, torch.randn(count, 4), progress=False).report
        assert report.measured_on is not None and report.measured_on.startswith(said)


def test_a_layer_says_how_many_weights_a_centroid_replaces() -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 4, "block": 2}]}
    (layer,) = lloydmax.compress(nn.Linear(8, 8), recipe, progress=False).report.layers
    assert (layer.block, layer.bits, layer.centroids) == (2, 1.0, 4)
    assert sum(layer.weights.counts) == 64 and len(layer.weights.centroids) == layer.weights.values == 8
