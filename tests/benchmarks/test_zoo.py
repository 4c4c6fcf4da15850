"""The zoo's harness on a network that is made here: cells are kept, tables and losses say what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from zoo import run, scores
from zoo.network import CHECKPOINTS, Loaded, Missing, Network, against, checkpoint
from zoo.registry import NETWORKS
from zoo.rows import ROWS, noise, weights


def small() -> Loaded:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32))
    return against(model, torch.randn(64, 16), torch.randn(40, 16), scores.same_class)


def gone() -> Loaded:
    raise Missing("run: pip install gone")


KNOWN = {
    "small": Network("small", "nothing", "made here", "same class", small),
    "gone": Network("gone", "nothing", "nowhere", "cosine", gone, percent=False),
}
FEW = ("--bits", "4", "--rows", "none,plain-fitting,rtn")


def test_cells_are_measured_once_and_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (*FEW, "--folder", str(tmp_path))
    run.main(command, KNOWN)
    first = capsys.readouterr()
    assert "gone is passed over: run: pip install gone" in first.err
    assert len(list(tmp_path.glob("*.json"))) == 4  # the original, and three rows
    line = next(line for line in first.out.splitlines() if line.startswith("| small"))
    assert "3,168 weights" in line and "same class, 100.0" in line and "refused" not in line
    assert first.out.count("**4 bits**") == 1
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}

    run.main(command, KNOWN)
    assert capsys.readouterr().out == first.out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == written


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--networks", "--rows"):
        with pytest.raises(SystemExit, match="2"):
            run.main((option, "smal"), KNOWN)
        assert "smal is not one of" in capsys.readouterr().err


def test_losses() -> None:
    def cell(score: float, bits: float) -> dict[str, float]:
        return {"score": score, "bits": bits}

    network = KNOWN["small"]
    figures = {"none": cell(0.90, 4.0), "effort0": cell(0.80, 4.0), "plain": cell(0.85, 4.05), "rtn": cell(0.99, 4.3)}
    assert run.losses(figures, network) == [
        "data, effort 0 80.0 (4.00) < no data 90.0 (4.00)",
        "data, effort 0 80.0 (4.00) < plain k-means a channel 85.0 (4.05)",
    ]
    assert run.losses({"none": {"refused": "why"}}, network) == ["no data: why"]
    assert run.losses({"none": cell(float("nan"), 4.0), "plain": cell(0.1, 4.0)}, network)


def test_scores() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 9, 10], [50, 50, 60, 60]])

    def read(found: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [(boxes + found, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]))]

    same = scores.same_boxes(read, 0.5)
    assert same(torch.tensor(1.0), torch.tensor(0.0)) == 1.0  # two boxes: the second is the first once more
    assert same(torch.tensor(8.0), torch.tensor(0.0)) == 0.0
    assert scores.ctc(torch.eye(4)[torch.tensor([[0, 2, 2, 0, 2, 3, 3]])]) == [[2, 2, 3]]
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert scores.decibels(1.0)(x + 0.1, x) == pytest.approx(20, abs=0.01) and scores.cosine(2 * x, x) == pytest.approx(
        1
    )
    assert scores.same_marks(0.0)(-x, x) == 0.0


def test_weights_in_buffers_count_and_noise_is_like_inputs() -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("large", torch.zeros(64, 32))
    model.register_buffer("mean", torch.zeros(4096))
    assert weights(model) == 20 + 2048
    tokens = torch.arange(50).view(5, 10)
    assert noise(tokens).dtype == tokens.dtype and noise(tokens).min() >= 0 and noise(tokens).max() <= 49
    assert noise(tokens.float()).std().item() == pytest.approx(tokens.float().std().item(), rel=0.3)


def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path))
    with pytest.raises(Missing, match=r"put a/b.bin of the public repository some/one .* LLOYDMAX_ZOO"):
        checkpoint("b.bin", "some/one", "a/b.bin")
    (tmp_path / "b.bin").write_bytes(b"1")
    assert checkpoint("b.bin", "some/one", "a/b.bin") == tmp_path / "b.bin"


def test_the_zoo_is_large() -> None:
    assert len(NETWORKS) >= 15 and len({network.task for network in NETWORKS.values()}) >= 15
    assert all(name == network.name for name, network in NETWORKS.items()) and len(ROWS) >= 7
