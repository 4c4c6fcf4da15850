"""Compressed files beside each other: sizes, layers, agreement; what cannot be compared is one line."""

from __future__ import annotations

import json
from pathlib import Path

import lloydmax
import pytest
import torch
from click.testing import CliRunner
from conftest import SmallNet
from lloydmax_command import main


def network() -> SmallNet:
    """Always the same weights."""
    torch.manual_seed(0)
    return SmallNet().eval()


PICTURES = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    made = []
    for centroids in (4, 16):
        recipe = {"name": f"k{centroids}", "quantize": [{"layers": "all", "centroids": centroids}]}
        made.append(folder / f"k{centroids}.safetensors")
        lloydmax.compress(network(), recipe, progress=False).save(made[-1])
    return made


def test_files_are_compared_with_the_first_one(files: list[Path]) -> None:
    found = lloydmax.compare(files)
    first, second = found.files
    assert [file.bytes for file in found.files] == [path.stat().st_size for path in files]
    assert found.against == "A" and found.measured_on is None and (first.recipe, second.recipe) == ("k4", "k16")
    held = [dict(lloydmax.codebooks(lloydmax.load(path, network()))) for path in files]
    for name, layer in second.layers.items():
        before, after = held[0][name].dequantize(), held[1][name].dequantize()
        assert layer.difference == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
        assert layer.centroids == 16 and layer.bits == pytest.approx(8 * layer.bytes / before.numel())
    assert all(layer.difference is None for layer in first.layers.values())
    assert lloydmax.compare([files[1], files[1]]).files[1].layers[name].difference == 0


def test_with_the_model_each_is_compared_with_the_original(files: list[Path]) -> None:
    found = lloydmax.compare(files, network(), PICTURES)
    state = network().state_dict()
    for path, file in zip(files, found.files, strict=True):
        small = lloydmax.load(path, network())
        same = float((small(PICTURES).argmax(1) == network()(PICTURES).argmax(1)).float().mean())
        assert file.agreement is not None and file.agreement.top1 == pytest.approx(same)
        for name, codebook in lloydmax.codebooks(small).items():
            difference = codebook.dequantize() - state[name]
            assert file.layers[name].difference == pytest.approx(
                float(difference.norm() / state[name].norm()), rel=1e-4
            )
    assert "64 samples in memory" in str(found) and "of the original" in " ".join(str(found).split())


def test_merged_norms_are_merged_in_the_original_too(tmp_path: Path) -> None:
    net = network()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(2, 3)
    recipe = {"quantize": [{"layers": "all", "centroids": 256}], "storage": {"norms": "merged"},
              "recover": [{"step": "fold_batch_norm"}]}  # fmt: skip
    lloydmax.compress(net, recipe, progress=False).save(tmp_path / "folded.safetensors")
    (file,) = lloydmax.compare([tmp_path / "folded.safetensors"], net).files
    assert all(layer.difference is not None and layer.difference < 0.05 for layer in file.layers.values())


def test_the_command_prints_and_draws(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["compare", *map(str, files), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [file["bytes"] for file in said["files"]] == [path.stat().st_size for path in files]
    page = out.read_text()
    assert ">k16<" in page and "2 compressed files" in page and out.stat().st_size < 100_000
    assert all(f">{layer['bytes']:,}" in page for file in said["files"] for layer in file["layers"].values())


def test_bits_of_a_layer_are_those_that_its_report_shows(tmp_path: Path) -> None:
    """Few weights: the codebook counts."""
    net = torch.nn.Sequential(torch.nn.Linear(8, 12))
    result = lloydmax.compress(net, {"quantize": [{"layers": "all", "centroids": 12}]}, progress=False)
    result.save(tmp_path / "net.safetensors")
    found = lloydmax.compare([tmp_path / "net.safetensors"], net)
    (layer,), (shown,) = result.report.layers, found.files[0].layers.values()
    assert shown.bits == layer.file_bits == 8 * layer.bytes / 96 > layer.bits
    rows = [line for text in (result.report, found) for line in str(text).splitlines() if "0.weight" in line]
    assert len(rows) == 2 and all(f" {layer.file_bits:.3g} " in row for row in rows), rows


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["{0}"], "1 files cannot be compared: give two to 8"),
        (["{0}"] * 9, "9 files cannot be compared"),
        (["{0}", "{0}", "--data", "d.npy"], "--weights and --data belong to a model"),
        (["{0}", "{1}x"], "k16.safetensorsx"),
        (["{0}", "{1}", "--out", "{1}"], "which it would replace"),
        (["{0}", "{1}", "--model", "torch.nn:Identity"], "k4.safetensors"),
    ],
)
def test_what_cannot_be_compared_is_one_line(files: list[Path], asked: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["compare", *(text.format(*files) for text in asked)])
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output
