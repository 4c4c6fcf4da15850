"""Samples that are not finite, in everything that reads data: left out, told, and no model is the worse for them."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import DataError, Report
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ALL: dict[str, Any] = {"quantize": [{"layers": "all", "centroids": 8}], "trainable": ["all"]}
STEPS: list[dict[str, Any]] = [
    {"step": "renormalize"},
    {"step": "renormalize", "relative": True, "mode": "fast"},
    {"step": "correct_bias"},
    {"step": "reconstruct"},
    {"step": "equalize"},
    {"step": "distill", "steps": 6, "batch_size": 16},
    {"step": "align", "steps": 3, "batch_size": 16},
]
RECIPES = [
    *({**ALL, "recover": [step]} for step in STEPS),
    *({"quantize": [{"layers": "all", "centroids": 8, "importance": kind}]} for kind in ("fisher", "inputs")),
    {"quantize": [{"layers": ["stem", "head.0"], "quantizer": "uniform", "bits": 8}], "activations": {"bits": 8}},
]


@pytest.fixture
def many() -> Tensor:
    return torch.randn(256, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def broken(many: Tensor) -> Tensor:
    many = many.clone()
    many[0, 0, 2, 2], many[1, 1, 3, 3] = math.nan, math.inf
    return many


@pytest.fixture
def net(small_net: SmallNet) -> SmallNet:
    for module in small_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
    return small_net


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: str(recipe.get("recover", recipe))[:40])
def test_every_step_is_as_good_as_without_the_bad_samples(
    recipe: dict[str, Any], net: SmallNet, many: Tensor, broken: Tensor
) -> None:
    clean = lloydmax.compress(net, recipe, many[2:], progress=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = lloydmax.compress(net, recipe, broken, progress=False)
    assert [str(w.message).count("sample 0 (NaN), sample 1 (infinite)") for w in told].count(1) == 1
    assert found.report.data["data"]["which"] == {"0": "NaN", "1": "infinite"}
    with torch.no_grad():
        errors = [(result.model(many) - net(many)).square().mean() for result in (clean, found)]
    assert torch.isfinite(torch.stack(errors)).all() and errors[1] < 1.5 * errors[0] + 1e-6


@pytest.mark.parametrize(
    "use",
    [
        lambda net, data: lloydmax.search(net, ALL, data, {"bits": 3}, progress=False, samples=100),
        lambda net, data: lloydmax.sweep(net, ALL, data, progress=False, centroids=[2, 4]),
        lambda net, data: lloydmax.recipe_for(net, 4, data, effort=0.01),
        lambda net, data: lloydmax.data_fitness(net, {"these": data}),
        lambda net, data: lloydmax.distill(copy.deepcopy(net), net, data, steps=2),
        lambda net, data: lloydmax.renormalize(copy.deepcopy(net), data),
    ],
)
def test_everything_that_reads_data_leaves_them_out(
    use: Callable[[nn.Module, Any], Any], net: SmallNet, broken: Tensor
) -> None:
    with pytest.warns(UserWarning, match="2 of 256 samples left out"):
        use(net, broken)
    broken[2:4] = math.nan
    for data in (broken, DataLoader(TensorDataset(broken), batch_size=16)):
        with pytest.raises(DataError, match="[34] of 256 samples cannot be used|none of the"):
            use(net, data)


def test_reference_data_is_looked_at_too(net: SmallNet, many: Tensor, broken: Tensor) -> None:
    with pytest.warns(UserWarning, match="2 of 256"):
        found = lloydmax.compress(net, ALL, many, broken, progress=False)
    assert [found.report.data[name]["left_out"] for name in ("data", "reference_data")] == [0, 2]
    assert found.report.agreement.after is not None


def test_the_order_of_batches_and_a_resumed_run_do_not_depend_on_what_is_known(
    net: SmallNet, broken: Tensor, tmp_path: Path
) -> None:
    recipe = {**ALL, "recover": [{"step": "renormalize"}, {"step": "distill", "epochs": 2, "batch_size": 16}]}
    loader = DataLoader(TensorDataset(broken), batch_size=16)
    files, cache = [], lloydmax.Cache()
    ways: list[dict[str, Any]] = [{}, {"workdir": tmp_path}, {"workdir": tmp_path}, {"cache": cache}, {"cache": cache}]
    for number, more in enumerate(ways):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lloydmax.compress(net, recipe, loader, progress=False, **more).save(tmp_path / f"{number}.safetensors")
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1


def test_the_report_has_them(net: SmallNet, broken: Tensor, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="2 of 256"):
        report = lloydmax.compress(net, ALL, broken, progress=False).report
    line = "2 of 256 samples of data left out: 0 (NaN), 1 (infinite)"
    assert line in str(report) and report.left_out() == [line]
    report.to_json(tmp_path / "report.json")
    assert Report.from_json(tmp_path / "report.json").left_out() == [line]
