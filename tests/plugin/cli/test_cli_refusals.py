"""What a command refuses, it refuses before it runs the model, in one line, and leaves every file as it was."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SmallNet
from lloydmax import demo
from lloydmax.errors import OutputError
from lloydmax_command import main
from torch import Tensor, nn

RECIPE = "quantize:\n  - {layers: all, centroids: 4}\nrecover:\n  - {step: renormalize}\n"
COMPRESS = ["compress", "--weights", "w.pt", "--recipe", "r.yaml", "--data", "d.npy"]
SEARCH = ["search", "--weights", "w.pt", "--recipe", "r.yaml", "--data", "d.npy", "--centroids", "2,4"]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="these places are Linux's")
EXPORT = ["export", "--weights", "w.pt", "--student", "m.safetensors", "--shape", "1,3,12,12"]


class NeverRun(SmallNet):
    """Refuses to be run."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was run")


class Unsaveable(NeverRun):
    """Holds what no file can."""

    def get_extra_state(self) -> object:
        return object()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(conftest, "NeverRun", NeverRun, raising=False)
    monkeypatch.setattr(conftest, "Unsaveable", Unsaveable, raising=False)
    torch.save(SmallNet().state_dict(), "w.pt")
    np.save("d.npy", np.zeros((40, 3, 12, 12), np.float32))
    Path("r.yaml").write_text(RECIPE)
    Path("file").write_text("kept")
    Path("folder").mkdir()
    Path("link.pt").symlink_to("w.pt")
    os.link("w.pt", "hard.pt")
    return tmp_path


def refused(*arguments: str, status: int = 2, model: str = "NeverRun") -> str:
    """What a command says; it must change nothing."""
    before = {path: path.read_bytes() if path.is_file() else b"" for path in Path().rglob("*")}
    result = CliRunner().invoke(main, [arguments[0], "--model", f"conftest:{model}", *arguments[1:]])
    assert result.exit_code == status, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert {path: path.read_bytes() if path.is_file() else b"" for path in Path().rglob("*")} == before
    line = result.output.strip().splitlines()[-1]
    assert len(result.output.strip().splitlines()) <= 4
    return line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([*COMPRESS, "--out", "no/m.safetensors"], "the folder .*no does not exist"),
        ([*COMPRESS, "--out", "file/m.safetensors"], "does not exist|Not a directory"),
        ([*COMPRESS, "--out", "folder"], "is a directory"),
        ([*COMPRESS, "--out", "new.pt"], "compress writes a .safetensors file.*lloydmax export"),
        ([*COMPRESS, "--out", "new/"], "folder's name"),
        pytest.param([*COMPRESS, "--out", "/proc/m.safetensors"], "no file can be made in /proc", marks=LINUX),
        pytest.param([*COMPRESS, "--out", "/dev/full"], "not an ordinary file", marks=LINUX),
        ([*COMPRESS, "--out", "w.pt"], "--out w.pt is also --weights"),
        ([*COMPRESS, "--out", "./folder/../w.pt"], "is also --weights"),
        ([*COMPRESS, "--out", "link.pt"], "is also --weights"),
        ([*COMPRESS, "--out", "hard.pt"], "is also --weights"),
        ([*COMPRESS, "--out", "d.npy"], "is also --data"),
        ([*COMPRESS, "--out", "r.yaml"], "is also --recipe"),
        ([*COMPRESS, "--reference-data", "file", "--out", "file"], "is also --reference-data"),
        ([*COMPRESS, "--out", "m", "--report", "m"], "--report m is also --out"),
        ([*COMPRESS, "--out", "m", "--report", "r.yaml"], "--report r.yaml is also --recipe"),
        ([*COMPRESS, "--out", "m", "--report", "no/r.json"], "no does not exist"),
        ([*COMPRESS, "--out", "m", "--workdir", "file"], "workdir file: is not a folder"),
        ([*COMPRESS, "--out", "m", "--workdir", "file/a"], "workdir file/a: "),
        ([*COMPRESS, "--out", "new", "--workdir", "new"], "--out new is also --workdir"),
        (["compress", "--out", "m", "--workdir", "new", "--recipe", "r.yaml"], "needs unlabelled inputs"),
        (["compress", "--out", "m", "--recipe", "r.yaml"], "'renormalize' needs unlabelled inputs: give --data"),
        ([*COMPRESS, "--out", "m", "--seed", "-1"], "not in the range 0<=x"),
        ([*COMPRESS, "--out", "m", "--seed", str(2**63)], "not in the range 0<=x"),
        ([*SEARCH, "--centroids", "2.5,4"], "'2.5,4' is not a comma-separated list of whole numbers from 1"),
        ([*SEARCH, "--centroids", "0,4"], "whole numbers from 1"),
        ([*SEARCH, "--samples", "0"], "not in the range x>=1"),
        (["evaluate", "--student", "m", "--data", "d.npy", "--samples", "-3"], "not in the range x>=1"),
        (["evaluate", "--data-fitness", "d.npy", "--samples", "0"], "not in the range x>=1"),
        ([*COMPRESS, "--out", "m", "--device", "gpu"], "torch calls GPUs cuda"),
        (["recipe", "--bits", "0.3", "--out", "m.yaml"], "0.3 bits a weight the file may have .* fills alone"),
        (["compress", "--bits", "0.3", "--out", "m"], "0.3 bits a weight the file may have .* fills alone"),
        (["recipe", "--out", "no/r.yaml"], "no does not exist"),
        (["recipe", "--weights", "w.pt", "--out", "w.pt"], "is also --weights"),
        ([*SEARCH, "--budget", "bits=3", "--out", "r.yaml"], "is also --recipe"),
        ([*SEARCH, "--budget", "bits=3", "--report", "no/r.json"], "no does not exist"),
        ([*SEARCH, "--budget", "bits=3", "--plot", "p.txt"], "p.txt does not name a format of a plot: .*png"),
        ([*SEARCH, "--budget", "bits=3", "--plot", "p"], "p does not name a format of a plot"),
        ([*SEARCH, "--budget", "bits=3", "--workdir", "file"], "workdir file: is not a folder"),
        ([*EXPORT, "--out", "m.tflite"], "does not name a format; known"),
        ([*EXPORT, "--out", "m"], "does not name a format; known"),
        ([*EXPORT, "--out", "m.onnx", "--format", "onx"], "did you mean 'onnx'"),
        ([*EXPORT, "--out", "m.pt2", "--option", "opset=3"], "no option 'opset'"),
        ([*EXPORT, "--out", "m.pte"], "needs executorch"),
        ([*EXPORT, "--out", "no/m.onnx"], "no does not exist"),
        ([*EXPORT, "--student", "m.pt2", "--out", "m.pt2"], "is also --student"),
    ],
)
def test_outputs_that_cannot_be(work: Path, arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    assert re.search(reason, refused(*arguments))


def test_what_a_format_puts_beside_its_file(work: Path) -> None:
    pytest.importorskip("openvino")
    Path("m.bin").write_bytes(b"weights")
    assert "what --out puts beside m.bin is also --weights" in refused(
        "export", "--weights", "m.bin", "--student", "m.safetensors", "--shape", "1,3,12,12", "--out", "m.xml"
    )


def test_a_disk_without_room(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    assert "m: the file will have" in refused(*COMPRESS, "--out", "m")


def test_a_model_that_no_file_can_hold(work: Path) -> None:
    arguments = ["compress", "--recipe", "r.yaml", "--data", "synthesize:64", "--out", "m"]
    assert "Unsaveable" in refused(*arguments, model="Unsaveable")


@pytest.mark.parametrize("budget", ["bytes=100", "reduction=0.999", "bits=0.1"])
def test_a_search_with_a_budget_out_of_reach(work: Path, budget: str) -> None:
    assert "NO CHOICE  the budget" in refused(*SEARCH, "--budget", budget, status=1)


def test_a_missing_workdir_is_made(work: Path) -> None:
    result = CliRunner().invoke(
        main, [COMPRESS[0], "--model", "conftest:SmallNet", *COMPRESS[1:], "--out", "m", "--workdir", "a/b", "--quiet"]
    )
    assert result.exit_code == 0, result.output
    assert [item.name[:9] for item in Path("a/b").iterdir()] == ["compress-"]


@pytest.mark.parametrize(("name", "content"), [("words.pt", b"weights"), ("zeros.bin", bytes(80))])
def test_weights_that_are_none(work: Path, name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    assert f"--weights {name}: cannot be read" in refused("plan", "--weights", name, "--bits", "4")


def test_a_plan_of_a_number_of_bits(work: Path) -> None:
    assert "fills alone" in refused("plan", "--bits", "0.3")
    assert "give --recipe, or --bits" in refused("plan")
    done = CliRunner().invoke(main, ["plan", "--model", "conftest:NeverRun", "--weights", "w.pt", "--bits", "8"])
    assert done.exit_code == 0 and "SmallNet" not in done.output and "head.0.weight" in done.output


def test_a_page_over_its_report(work: Path) -> None:
    result = CliRunner().invoke(main, ["report", "file", "--out", "file"])
    assert result.exit_code == 2 and "--out file is also the report file" in result.output
    assert Path("file").read_text() == "kept"


def test_the_demo_needs_a_folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "network", lambda: nn.Identity().unknown)
    result = CliRunner().invoke(main, ["demo", "--out", "file", "--quiet"])
    assert result.exit_code == 2 and "file: is not a folder" in result.output


def test_ready_recipes_by_name(work: Path) -> None:
    done = CliRunner().invoke(main, ["plan", "--model", "lloydmax.demo:network", "--recipe", "demo"])
    assert done.exit_code == 0, done.output
    assert "no.yaml" in refused("plan", "--recipe", "no.yaml") and "nothing" in refused("plan", "--recipe", "nothing")


def test_the_source_of_the_model_is_not_replaced(work: Path) -> None:
    source = Path("own_network.py")
    source.write_text("from conftest import NeverRun")
    for arguments in (
        [*COMPRESS, "--out", source.name],
        [*COMPRESS, "--out", "m", "--report", source.name],
        [*SEARCH, "--budget", "bits=3", "--out", source.name],
        ["recipe", "--out", source.name],
    ):
        result = CliRunner().invoke(main, [arguments[0], "--model", "own_network:NeverRun", *arguments[1:]])
        assert result.exit_code == 2 and "own_network.py is also --model, which it would replace" in result.output
    assert source.read_text() == "from conftest import NeverRun"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "r.yaml", "--bits", "4", "--out", "m.safetensors"], "leave one out"),
        (["--bits", "4", "--out", "m.safetensors", "--model-args", "[3]"], "names arguments, such as"),
        (["--bits", "4", "--out", "m.safetensors", "--model-args", "{width: 3}"], "not JSON: .* write it as"),
        (["--bits", "4", "--out", "m.safetensors", "--data", "https://example.org/a.zip"], "reads no addresses"),
    ],
)
def test_misunderstandings_are_one_line(work: Path, arguments: list[str], said: str) -> None:
    assert re.search(said, refused("compress", *arguments))


def test_a_report_without_room_costs_nothing_else(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while the model is compressed: model and figures are there, and the error says what is not."""

    def full(path: object, data: object) -> None:
        raise OutputError(f"{path}: no space left on device")

    monkeypatch.setattr("lloydmax.report.report.files.write_json", full)
    torch.save(SmallNet().state_dict(), "w.pt")
    done = CliRunner().invoke(
        main, ["compress", "--model", "conftest:SmallNet", "--weights", "w.pt", "--recipe", "r.yaml", "--data", "d.npy",
               "--out", "m.safetensors", "--report", "m.json"]
    )  # fmt: skip
    assert done.exit_code == 2 and "Written: m.safetensors" in done.stdout and Path("m.safetensors").is_file()
    assert done.stderr.strip().endswith("lloydmax: m.json: no space left on device")
