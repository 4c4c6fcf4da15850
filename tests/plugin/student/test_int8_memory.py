"""Models on int8 kernels are let go."""

from __future__ import annotations

import gc
import weakref

import lloydmax
import torch
from lloydmax.codebook.codebook import Codebook
from torch import fx, nn

INT8 = {"quantize": [{"layers": "all", "quantizer": "uniform"}], "activations": {"bits": 8}}


def graphs() -> int:
    gc.collect()
    return sum(issubclass(type(each), fx.GraphModule) for each in gc.get_objects())


def test_models_of_earlier_runs_are_let_go() -> None:
    net, x = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), torch.randn(32, 16)
    lloydmax.compress(net, INT8, x, progress=False)
    before = graphs()
    for _ in range(3):
        lloydmax.compress(net, INT8, x, progress=False)
    assert graphs() == before


def test_a_model_that_nobody_holds_is_gone_at_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    gc.disable()
    try:
        made = lloydmax.compress(model, INT8, torch.randn(32, 8), progress=False).model
        gone = [weakref.ref(module) for module in made.modules()]
        assert len(gone) > 4
        del made
        assert [each() for each in gone] == [None] * len(gone)
    finally:
        gc.enable()


def test_a_kept_result_holds_codes_once():
    """The network's own int8 weights are all: what the report measures on them later is read from the network."""
    result = lloydmax.compress(nn.Sequential(nn.Linear(7, 13)).eval(), INT8, torch.randn(8, 7), progress=False)
    gc.collect()
    mine = [held for held in gc.get_objects() if isinstance(held, Codebook) and held.shape == (13, 7)]
    assert not mine and result.report.bytes.gzip_float32 > 0
