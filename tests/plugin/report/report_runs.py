"""One real compression, its report and its search, shared by the tests of the report."""

from __future__ import annotations

from functools import cache

import lloydmax
import torch
from conftest import SmallNet
from lloydmax import Report
from lloydmax.choosing.search import SearchResult

RECIPE = {
    "name": "report",
    "quantize": [{"layers": "all", "centroids": 4}],
    "trainable": ["all"],
    "recover": [
        {"step": "renormalize", "samples": 64},
        {"step": "distill", "epochs": 3, "batch_size": 24, "held_out": 0.25, "optimizer": "adam", "lr": 0.001},
    ],
}


@cache
def measured() -> tuple[Report, SearchResult]:
    """A compression with data, a score and recovery, and a search of the same network."""
    torch.manual_seed(0)
    net, pictures = SmallNet().eval(), torch.randn(96, 3, 12, 12)
    labels = net(pictures).argmax(1)

    def accuracy(model: torch.nn.Module) -> float:
        return float((model(pictures).argmax(1) == labels).float().mean())

    report = lloydmax.compress(net, RECIPE, pictures, evaluate=accuracy, progress=False).report
    found = lloydmax.search(net, RECIPE, pictures, {"bits": 5}, centroids=[2, 4, 16], progress=False)
    return report, found


@cache
def plain() -> Report:
    """No data, no score, no recovery; vector codebooks; a name that would break a careless page."""
    layers = torch.nn.Sequential()
    for number in range(30):
        layers.add_module(f"encoder_block_{number}_feed_forward_projection", torch.nn.Linear(16, 16))
    recipe = {"name": "</script><b>&", "quantize": [{"layers": "all", "centroids": 8, "block": 4}]}
    return lloydmax.compress(layers, recipe, progress=False).report
