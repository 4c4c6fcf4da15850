"""The sweep: what it says is what compressing one layer alone does; estimates against measurements; resuming."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax import DataError, RecipeError, RecoveryError, compress, data_fitness, demo, hookimpl, plan, sweep
from lloydmax.choosing.sweep import Sweep
from lloydmax.fitting.codebook import fit_codebook
from torch import Tensor, nn

KS = [2, 4, 16, 64]
ALL = {"quantize": [{"layers": "all"}]}


def ranks(values: Any) -> Any:
    return np.argsort(np.argsort(np.asarray(values)))


def spearman(one: Sweep, other: Sweep) -> float:
    return float(np.corrcoef(ranks([r.damage for r in one.rows]), ranks([r.damage for r in other.rows]))[0, 1])


@pytest.fixture(scope="module")
def clothes() -> Tensor:
    return demo.test_set()[0][:128]


def test_measured_rows_are_what_compress_does(small_net: SmallNet, pictures: Tensor) -> None:
    found = sweep(small_net, ALL, pictures, KS, estimate=False)
    assert all(row.measured for row in found.rows)
    for row in (found.rows[1], found.rows[-2]):
        layer = row.unit.removesuffix(".weight")
        recipe = {"quantize": [{"layers": [layer], "centroids": row.centroids}]}
        report = compress(small_net, recipe, pictures, progress=False).report
        assert row.kl == pytest.approx(report.kl.before, rel=1e-6)
        assert row.agreement == report.agreement.before
        assert row.bytes == report.layers[0].bytes == next(plan(small_net, recipe).rows())["bytes"]
        agreement = report.stages[1].agreement
        assert agreement is not None
        with torch.no_grad():
            power = float(small_net(pictures).double().square().mean())
        assert row.snr == pytest.approx(10 * math.log10(power / agreement.mse), abs=1e-4)


def test_rows_cover_everything_and_bytes_grow(small_net: SmallNet, pictures: Tensor) -> None:
    found = sweep(small_net, ALL, pictures, KS)
    assert list(found.by_unit()) == list(plan(small_net, {"quantize": [{"layers": "all", "centroids": 2}]}).parameters)
    for rows in found.by_unit().values():
        assert [row.centroids for row in rows] == KS
        assert sorted(row.bytes for row in rows) == [row.bytes for row in rows]
    assert [row.layer for row in found.rows[:: len(KS)]] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_the_estimate_ranks_like_the_measurement_at_a_tenth_of_the_passes(clothes: Tensor) -> None:
    teacher = demo.network()
    estimated = sweep(teacher, ALL, clothes)
    measured = sweep(teacher, ALL, clothes, estimate=False)
    assert spearman(estimated, measured) > 0.95
    assert estimated.passes <= len(measured.rows) / 10
    assert 1 < sum(row.measured for row in estimated.rows) < len(estimated.rows) / 10
    pairs = [
        (e, m) for e, m in zip(estimated.rows, measured.rows, strict=True) if not e.measured and 8 <= e.centroids < 64
    ]
    ratios = [e.damage / m.damage for e, m in pairs]
    assert 0.8 < np.exp(np.mean(np.log(ratios))) < 1.25
    assert abs(np.mean([e.agreement - m.agreement for e, m in pairs])) < 0.02  # type: ignore[operator]
    assert abs(np.mean([e.snr - m.snr for e, m in pairs])) < 1.0


def test_the_estimate_is_near_the_measurement_where_errors_are_small(small_net: SmallNet, pictures: Tensor) -> None:
    with torch.no_grad():
        small_net.head[2].weight *= 100
    estimated, measured = (sweep(small_net, ALL, pictures, [4, 8, 16, 32], estimate=e) for e in (True, False))
    assert spearman(estimated, measured) > 0.9
    pairs = [(e.damage, m.damage) for e, m in zip(estimated.rows, measured.rows, strict=True) if not e.measured]
    assert len(pairs) > 12
    assert all(0.4 < one / other < 2.5 for one, other in pairs)
    assert 0.8 < np.exp(np.mean([math.log(one / other) for one, other in pairs])) < 1.25


def test_the_teacher_is_left_alone(small_net: SmallNet, pictures: Tensor) -> None:
    small_net.train()
    before = copy.deepcopy(small_net.state_dict())
    random = torch.get_rng_state()
    sweep(small_net, ALL, pictures, [4])
    assert small_net.training and torch.equal(torch.get_rng_state(), random)
    assert all(p.requires_grad and p.grad is None for p in small_net.parameters())
    assert all(torch.equal(before[name], value) for name, value in small_net.state_dict().items())


def test_any_parameter_of_any_module(text_net: TextNet) -> None:
    tokens = torch.randint(0, 50, (24, 7), generator=torch.Generator().manual_seed(0))
    rules = [
        {"layers": ["embed", "out"]},
        {"layers": ["attention", "lstm"], "parameter": "*weight*"},
        {"layers": ["lstm"], "parameter": "bias*"},
    ]
    estimated = sweep(text_net, {"quantize": rules}, tokens, [4, 16])
    measured = sweep(text_net, {"quantize": rules}, tokens, [4, 16], estimate=False)
    assert {"embed.weight", "attention.in_proj_weight", "lstm.bias_hh_l0"} <= set(estimated.parameters)
    assert spearman(estimated, measured) > 0.8


def test_a_rule_is_one_unit_and_a_single_value_beside_lists_stays(small_net: SmallNet, pictures: Tensor) -> None:
    recipe = {
        "quantize": [
            {"layers": "1-2", "centroids": [4, 8]},
            {"layers": "3-5", "centroids": 16},
            {"layers": ["head.2"], "parameter": "bias"},
        ]
    }
    found = sweep(small_net, recipe, pictures, [2, 16], units="rules", estimate=False)
    assert [(row.unit, row.centroids) for row in found.rows] == [
        ("quantize[1]: 1-2", 4),
        ("quantize[1]: 1-2", 8),
        ("quantize[2]: 3-5", 16),
        ("quantize[3]: head.2", 2),
        ("quantize[3]: head.2", 5),
    ], "the bias has five values"
    together = compress(small_net, {"quantize": [{"layers": "1-2", "centroids": 4}]}, pictures, progress=False)
    assert found.rows[0].kl == pytest.approx(together.report.kl.before, rel=1e-6)
    estimated = sweep(small_net, recipe, pictures, [2, 16], units="rules")
    assert len(estimated.rows) == len(found.rows)


def test_outputs_without_classes(pictures: Tensor) -> None:
    torch.manual_seed(0)
    regression = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.Tanh(), nn.Linear(16, 1))
    found = sweep(regression, ALL, pictures, KS)
    assert all(row.kl is None and row.agreement is None for row in found.rows)
    measured = sweep(regression, ALL, pictures, KS, estimate=False)
    assert spearman(found, measured) > 0.9
    assert all(row.damage == row.apart for row in found.rows)


def test_granularity_and_entropy_coding_count(small_net: SmallNet, pictures: Tensor) -> None:
    rule = {"layers": ["padded"], "granularity": "channel"}
    (packed,) = sweep(small_net, {"quantize": [rule]}, pictures, [4], estimate=False).rows
    assert packed.bytes == 1152 * 2 // 8 + 16 * 4 * 4
    recipe = {"quantize": [{"layers": ["padded"]}], "storage": {"codes": "entropy"}}
    (coded,) = sweep(small_net, recipe, pictures, [3], estimate=False).rows
    assert 1152 * math.log2(3) / 8 < coded.bytes - 3 * 4 < 1152 * 2 // 8


class Interrupt:
    """Ctrl-C at a step of a stage."""

    def __init__(self, stage: str, at: int) -> None:
        self.stage, self.at = stage, at

    @hookimpl
    def lloydmax_step(self, step: str, index: int) -> None:
        if (step, index) == (self.stage, self.at):
            raise KeyboardInterrupt


@pytest.mark.parametrize(("stage", "at"), [("estimate", 3), ("sweep", 2)])
def test_a_killed_sweep_goes_on(small_net: SmallNet, pictures: Tensor, tmp_path: Path, stage: str, at: int) -> None:
    whole = sweep(small_net, ALL, pictures, KS)
    with pytest.raises(KeyboardInterrupt):
        sweep(small_net, ALL, pictures, KS, workdir=tmp_path, listeners=[Interrupt(stage, at)])
    (file,) = tmp_path.glob("search-*.jsonl")
    kept = len(file.read_bytes().splitlines())
    with file.open("a") as torn:
        torn.write('["measure half a li')
    again = sweep(small_net, ALL, pictures, KS, workdir=tmp_path)
    assert again.rows == whole.rows
    assert again.passes < whole.passes
    assert len(file.read_bytes().splitlines()) > kept
    done = sweep(small_net, ALL, pictures, KS, workdir=tmp_path)
    assert done.rows == whole.rows and done.passes == 1
    other = sweep(small_net, ALL, pictures + 1, KS, workdir=tmp_path)
    assert other.rows != whole.rows, "other data is another file"


def test_one_histogram_gives_the_same_codebooks() -> None:
    from lloydmax.hooks.registry import make

    for shape in ((300, 300), (20, 30)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        for k, found in zip(KS, make("quantizer", "kmeans", {}).fit_many(weight, KS), strict=True):
            alone = fit_codebook(weight, k)
            assert torch.equal(found.centroids, alone.centroids) and torch.equal(found.codes, alone.codes)


def test_json_and_table(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    found = sweep(small_net, ALL, pictures, [2, 65536])
    found.to_json(tmp_path / "sweep.json")
    data = json.loads((tmp_path / "sweep.json").read_text())
    assert len(data["rows"]) == len(found.rows) and data["rows"][1]["snr"] is None, "kept exactly"
    assert "head.0.weight" in str(found) and "k=2 (1 bit)" in str(found)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).detach()


def test_refusals(small_net: SmallNet, pictures: Tensor) -> None:
    with pytest.raises(RecoveryError, match="estimate=False"):
        sweep(Detached(), ALL, torch.randn(8, 4), [2])
    assert sweep(Detached(), ALL, torch.randn(8, 4), [2], estimate=False).rows
    with pytest.raises(RecoveryError, match="pass data"):
        sweep(small_net, ALL, None)
    with pytest.raises(RecipeError, match="chooses centroids only"):
        sweep(small_net, {"quantize": [{"layers": "all", "granularity": ["tensor", "channel"]}]}, pictures)
    with pytest.raises(RecipeError, match="units"):
        sweep(small_net, ALL, pictures, units="layers")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="greater than or equal to 1"):
        sweep(small_net, ALL, pictures, [0, 4])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("samples", [0, -3])
def test_a_sweep_of_no_samples_is_refused(small_net: SmallNet, pictures: Tensor, samples: int) -> None:
    for run in (
        lambda: sweep(small_net, ALL, pictures, KS, samples=samples, progress=False),
        lambda: data_fitness(small_net, {"a": pictures}, samples=samples),
    ):
        with pytest.raises(DataError, match=f"samples is {samples}"):
            run()
