"""The command line: results on stdout, errors in words, exit status 0, 1 or 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import SmallNet
from lloydmax_command import main
from PIL import Image

MODEL = ["--model", "conftest:SmallNet"]
RECIPE = """\
name: cli
quantize:
  - {layers: all, centroids: 4}
recover:
  - {step: renormalize, samples: 32}
"""


def run(*arguments: Any, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def work(tmp_path: Path, small_net: SmallNet) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    torch.save({"state_dict": {f"module.{k}": v for k, v in small_net.state_dict().items()}}, tmp_path / "weights.pt")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(40, 3, 12, 12)).astype(np.float32))
    np.save(tmp_path / "labels.npy", np.arange(40) % 5)
    return tmp_path


def compressed(work: Path, *more: Any) -> Path:
    out = work / "model.safetensors"
    run(
        "compress", *MODEL, "--weights", work / "weights.pt", "--recipe", work / "recipe.yaml",
        "--data", work / "data.npy", "--out", out, "--quiet", *more,
    )  # fmt: skip
    return out


def test_compress_plan_inspect_verify_evaluate(work: Path) -> None:
    out = compressed(work, "--report", work / "report.json")
    assert json.loads((work / "report.json").read_text())["bytes"]["file"] == out.stat().st_size
    plan = json.loads(run("plan", *MODEL, "--recipe", work / "recipe.yaml", "--json").stdout)
    assert plan["predicted_bytes"] == out.stat().st_size
    assert "head.0.weight" in run("plan", *MODEL, "--recipe", work / "recipe.yaml").stdout
    assert "head.0.weight" in run("inspect", out).stdout
    assert json.loads(run("inspect", out, "--json").stdout)
    assert run("verify", out).stdout.startswith("ok")
    found = json.loads(
        run(
            "evaluate", *MODEL, "--weights", work / "weights.pt", "--student", out, "--data", work / "data.npy",
            "--labels", work / "labels.npy", "--json",
        ).stdout
    )  # fmt: skip
    assert found["samples"] == 40 and 0 <= found["agreement"] <= 1
    assert {"accuracy_original", "accuracy_compressed", "kl"} <= set(found)


def test_json_goes_to_stdout_alone(work: Path) -> None:
    result = run(
        "compress", *MODEL, "--recipe", work / "recipe.yaml", "--data", work / "data.npy",
        "--out", work / "m.safetensors", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["path"] == str(work / "m.safetensors")


def test_a_folder_of_images_with_labels_from_folders(work: Path) -> None:
    for name in ("cat", "dog"):
        (work / "photos" / name).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(np.full((20, 16, 3), 40 * index, np.uint8)).save(work / "photos" / name / f"{index}.png")
    out = work / "model.safetensors"
    images = ["--data", work / "photos", "--image-size", "12", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    run("compress", *MODEL, "--recipe", work / "recipe.yaml", *images, "--out", out, "--quiet")
    found = json.loads(run("evaluate", *MODEL, "--student", out, *images, "--labels", "folders", "--json").stdout)
    assert found["samples"] == 6 and 0 <= found["accuracy_original"] <= 1


def test_a_damaged_file_gives_status_one(work: Path) -> None:
    out = compressed(work)
    raw = bytearray(out.read_bytes())
    raw[-3] ^= 1
    out.write_bytes(raw)
    assert "DAMAGED" in run("verify", out, status=1).stdout
    assert json.loads(run("verify", out, "--json", status=1).stdout)["ok"] is False


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["verify", "nowhere.safetensors"], "nowhere.safetensors"),
        (["inspect", "nowhere.safetensors"], "nowhere.safetensors"),
        (["plan", "--model", "conftest:SmallNut", "--recipe", "{work}/recipe.yaml"], "SmallNet"),
        (["plan", "--model", "no.such:Thing", "--recipe", "{work}/recipe.yaml"], "no.such"),
        (["plan", "--model", "conftest", "--recipe", "{work}/recipe.yaml"], "package.module:callable"),
        (["plan", *MODEL, "--recipe", "{work}/missing.yaml"], "No such file"),
        (["plan", *MODEL, "--recipe", "{work}/recipe.yaml", "--weights", "{work}/labels.npy"], "cannot be read"),
        (["plan", *MODEL, "--recipe", "{work}/recipe.yaml", "--model-args", "{{"], "not JSON"),
        (["plan", "--model", "torch.nn:ReLU", "--recipe", "{work}/recipe.yaml"], "nothing to compress"),
        (["plan", "--model", "torch.nn:Linear", "--recipe", "{work}/recipe.yaml"], "in_features"),
        (["plan", *MODEL], "--recipe"),
    ],
)
def test_mistakes_give_status_two_and_one_clear_line(work: Path, arguments: list[str], expected: str) -> None:
    result = run(*(a.format(work=work) for a in arguments), status=2)
    assert expected in result.stderr and "Traceback" not in result.stderr and not result.stdout


def test_weights_of_another_model_are_refused(work: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), work / "other.pt")
    result = run("plan", *MODEL, "--weights", work / "other.pt", "--recipe", work / "recipe.yaml", status=2)
    assert "does not fit SmallNet" in result.stderr and "missing" in result.stderr


def test_weights_that_would_run_code_are_refused(work: Path) -> None:
    torch.save(SmallNet(), work / "pickled.pt")
    result = run("plan", *MODEL, "--weights", work / "pickled.pt", "--recipe", work / "recipe.yaml", status=2)
    assert "cannot be read" in result.stderr


def test_nothing_is_written_when_compression_fails(work: Path) -> None:
    (work / "recipe.yaml").write_text(RECIPE.replace("all", "sten"))
    arguments = ["compress", *MODEL, "--recipe", work / "recipe.yaml", "--out", work / "m.safetensors"]
    assert "did you mean 'stem'" in run(*arguments, status=2).stderr
    assert not (work / "m.safetensors").exists()
    run("compress", *MODEL, "--recipe", work / "recipe.yaml", "--out", work / "no" / "m.safetensors", status=2)


def test_plugins_and_schema() -> None:
    assert "kmeans" in run("plugins").stdout
    rows = json.loads(run("plugins", "--json").stdout)
    assert {"kind": "step", "name": "distill", "plugin": "distill", "distribution": "lloydmax"} in rows
    assert json.loads(run("schema").stdout)["title"] == "Recipe"


def test_export(work: Path) -> None:
    out = compressed(work)
    arguments = ["export", *MODEL, "--weights", work / "weights.pt", "--student", out]
    written = json.loads(run(*arguments, "--shape", "1,3,12,12", "--out", work / "m.pt2", "--json").stdout)
    assert written["bytes"] == (work / "m.pt2").stat().st_size and written["difference"] < 1e-4
    more = ["--option", "opset=20", "--option", "fold_at_load=true", "--fixed-batch"]
    assert "onnx" in run(*arguments, "--data", work / "data.npy", "--out", work / "m.onnx", *more).stdout
    for wrong in (
        ["--out", work / "m.pt2"],
        ["--shape", "1,x", "--out", work / "m.pt2"],
        ["--shape", "1,3,12,12", "--out", work / "m.pt2", "--option", "opset"],
        ["--shape", "1,3,12,12", "--out", work / "m.h5"],
    ):
        run(*arguments, *wrong, status=2)
