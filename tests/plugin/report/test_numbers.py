"""Every number of a report, against the file that was written and the model that is read from it."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from lloydmax.compress import Result
from lloydmax.data import random_order
from lloydmax.extend import Recovery
from lloydmax.report.figures import Figures
from lloydmax_command import main
from torch import Tensor, nn

SAMPLES, SEED = 400, 3
RULE = {"layers": "all", "centroids": 12}
RECIPES: dict[str, dict[str, Any]] = {
    "bits": {"bits": 4, "quantize": [RULE | {"importance": "fisher"}], "keep": "best", "storage": {"codes": "entropy"}},
    "channels": {
        "quantize": [RULE | {"centroids": 5, "granularity": "channel"}],
        "storage": {"floats": "float16", "layout": "compact", "codebooks": "int8"},
    },
}
STEPS = [{"step": "distill", "epochs": 1, "lr": 0.001, "batch_size": 64}]


def network() -> nn.Module:
    """What the command and the tests build."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 5)).eval()


class Run:
    """A compression, its file, and what its steps were given."""

    def __init__(self, recipe: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.net, self.inputs = network(), torch.randn(SAMPLES, 24, generator=torch.Generator().manual_seed(1))
        self.file, self.given = folder / "net.safetensors", list[Tensor]()

        def heard(*args: Any, **more: Any) -> Recovery:
            made = Recovery(*args, **more)
            assert made.data is not None
            self.given.append(torch.cat([x for _, batch in made.data.batches(50) for x in batch.tensors()]))
            return made

        patch.setattr(sys.modules["lloydmax.pipeline"], "Recovery", heard)
        asked = RECIPES[recipe] | {"recover": STEPS, "trainable": ["all"], "seed": SEED}
        self.result: Result = lloydmax.compress(self.net, asked, self.inputs, progress=False)
        self.report: Figures = self.result.report
        self.result.save(self.file)
        self.loaded = lloydmax.load(self.file, network())
        self.unseen = self.inputs[random_order(SAMPLES, seed=SEED)[: SAMPLES // 10]]

    def agreement(self, inputs: Tensor) -> float:
        """The share of the inputs to which the model that is read from the file gives the original's top-1."""
        with torch.no_grad():
            return float((self.loaded(inputs).argmax(1) == self.net(inputs).argmax(1)).double().mean())


@pytest.fixture(scope="module", params=sorted(RECIPES))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        return Run(request.param, tmp_path_factory.mktemp("run"), patch)


def test_every_size_is_that_of_a_file(run: Run, tmp_path: Path) -> None:
    sizes, weights = run.report.bytes, sum(p.numel() for p in run.net.parameters())
    assert sizes.file == run.file.stat().st_size and sizes.original == 4 * weights == 4 * (run.report.weights or 0)
    for codes, size in (("packed", sizes.packed), ("entropy", sizes.entropy_coded)):
        chosen = RECIPES["channels" if run.report.layers[0].centroids == 5 else "bits"]["storage"] | {"codes": codes}
        assert lloydmax.save(run.result.model, tmp_path / codes, storage=chosen) == size
    assert run.report.bits == 8 * sizes.file / weights and run.report.reduction == 1 - sizes.file / sizes.original


def test_every_layer_is_as_stored(run: Run) -> None:
    found = lloydmax.inspect(run.file)
    stored, held = {p.name: p for p in found.parameters}, lloydmax.codebooks(run.loaded)
    assert [layer.name for layer in run.report.layers] == list(stored)
    assert run.report.others == found.overhead + sum(tensor.bytes for tensor in found.tensors)
    assert sum(layer.bytes for layer in run.report.layers) + run.report.others == run.report.bytes.file
    for layer in run.report.layers:
        parameter, codebook = stored[layer.name], held[layer.name]
        assert (layer.bytes, layer.centroids, layer.shape) == (parameter.bytes, parameter.k, parameter.shape)
        assert layer.centroids == codebook.k and layer.block == parameter.block
        assert layer.bits == parameter.bits if parameter.coding == "packed" else 0 < layer.bits < parameter.bits
        weight = run.net.get_parameter(layer.name).detach()
        noise = (codebook.dequantize() - weight).double().square().sum()
        assert layer.snr == pytest.approx(10 * math.log10(float(weight.double().square().sum() / noise)), abs=1e-3)
        drawn = layer.weights
        values = {f"{value:.6g}" for value in codebook.centroids.flatten().tolist()}
        assert {f"{value:.6g}" for value in drawn.centroids} <= values and drawn.values == codebook.centroids.numel()
        assert sum(drawn.counts) == weight.numel() and drawn.high == pytest.approx(float(weight.max()), rel=1e-5)


def test_agreement_is_that_of_the_file_on_inputs_that_no_step_had(run: Run) -> None:
    (given,) = run.given
    assert len(given) == SAMPLES - len(run.unseen) == 360
    assert not (given[:, None] == run.unseen).all(-1).any()
    assert run.report.agreement.after == pytest.approx(run.agreement(run.unseen), abs=1e-9)
    assert run.report.stages[-1].agreement is not None and run.report.stages[-1].agreement.samples == 40
    assert run.report.measured_on == "40 of 400 samples in memory, float32 24, held out from every step"


def test_too_few_inputs_to_hold_any_out_are_told() -> None:
    recipe = {"quantize": [RULE], "recover": STEPS}
    few = lloydmax.compress(network(), recipe, torch.randn(100, 24), progress=False).report
    assert few.measured_on is not None and few.measured_on.startswith("100 samples in memory")
    assert "which the steps had, too" in few.measured_on
    recipe = {"quantize": [RULE]}
    nothing = lloydmax.compress(network(), recipe, torch.randn(400, 24), progress=False).report
    assert nothing.measured_on == "400 samples in memory, float32 24", "nothing learns from them"


def test_of_reference_data_as_much_is_held_out() -> None:
    recipe = {"quantize": [RULE], "recover": STEPS}
    data, reference = torch.randn(100, 24), torch.randn(330, 24)
    report = lloydmax.compress(network(), recipe, data, reference, progress=False).report
    assert report.measured_on is not None and report.measured_on.startswith("33 of 330 samples in memory")


def test_terminal_json_and_page_say_the_same(run: Run, tmp_path: Path) -> None:
    report, text = run.result.report, str(run.result.report)
    report.to_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["bytes"]["file"] == run.file.stat().st_size and data["others"] == report.others
    assert data["bits"] == report.bits and data["agreement"]["after"] == report.agreement.after
    agreed = f"{100 * (report.alike.after or 0):.2f} %"
    for said in (f"{run.file.stat().st_size:,}", f"{report.others:,}", f"{report.bits:.2f} bits of file", agreed):
        assert said in text
    assert all(re.search(rf"{re.escape(layer.name)} .*{layer.bytes:,} ", text) for layer in report.layers)
    report.to_html(tmp_path / "page.html")
    page = re.sub(r"<script>.*?</script>", "", (tmp_path / "page.html").read_text(), flags=re.S)
    total = sum(layer.bytes for layer in report.layers)
    for said in (
        f"{total:,} bytes of codes",
        f"{report.others:,} bytes of all other",
        agreed,
        f"{report.bits:.2f}</dd>",
    ):
        assert said in page
    assert all(f">{layer.bytes:,}<" in page for layer in report.layers)


def test_evaluate_says_the_same_of_the_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "unseen.npy", run.unseen.numpy())
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    asked = ["evaluate", "--model", "test_numbers:network", "--student", str(run.file), "--data"]
    done = CliRunner().invoke(main, [*asked, str(tmp_path / "unseen.npy"), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["agreement"] == pytest.approx(run.report.agreement.after) and found["samples"] == 40
    assert found["kl"] == pytest.approx(run.report.kl.after, rel=1e-5)
