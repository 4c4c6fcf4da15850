"""The evidence of the smallest file runs end to end, takes up where it stopped, and counts peers' bytes as it says."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import accuracy_at_size
import pytest
import torch
from size.packing import codebooks, groups, installed
from size.peers import Peer, compress
from size.target import Target
from torch import nn

FOLDERS = ("--folder", ".", "--plots", ".")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("digit_recognizer") is None or find_spec("mlxtend") is None, reason="no digit network")
def test_a_cell_is_measured_once_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = (*FOLDERS, "--network", "digit-cnn", "--method", "lloydmax", "--bits", "2")
    command = [sys.executable, str(accuracy_at_size.__file__), *chosen]
    first = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    (cell,) = (tmp_path / "cells").iterdir()
    figures = json.loads(cell.read_text())["figures"]
    assert figures["bits_per_weight"] < 2.1 and figures["accuracy"] > 0.95 and figures["memory"] > 0
    assert "lloydmax, without data | 2 bits |" in first.stdout
    assert (tmp_path / "accuracy_at_size_digit-cnn.png").read_bytes()[:4] == b"\x89PNG"

    written = cell.stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)
    accuracy_at_size.main(chosen)
    assert capsys.readouterr().out == first.stdout and cell.stat().st_mtime_ns == written


def test_no_such_cell(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        accuracy_at_size.main(("--method", "loydmax"))
    assert "--list" in capsys.readouterr().err


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 8)


def test_bytes_of_codebooks() -> None:
    model = layer()
    weight = (model.weight > 0).float()
    bias = 2 * 8
    assert codebooks(model, {"weight": weight}, 1, None).bytes == 64 * 8 / 8 + 2 * 2 + bias
    assert codebooks(model, {"weight": weight}, 1, 1).bytes == 64 * 8 / 8 + 8 * 2 * 2 + bias
    assert codebooks(model, {}, 1, None).bytes == 2 * 64 * 8 + bias


def test_bytes_of_groups() -> None:
    model = layer()
    weights = {"weight": model.weight.detach()}
    assert groups(model, weights, 4, 32, zeros=True).bytes == 64 * 8 / 2 + 8 * 2 * 3 + 2 * 8


def test_a_peer_gets_the_most_bits_that_fit() -> None:
    def rounded(model: nn.Linear, bits: int, x: torch.Tensor) -> object:
        if bits == 3:
            raise ValueError("3 bits are odd")
        values = torch.linspace(-1, 1, 2**bits)
        nearest = values[(model.weight[..., None] - values).abs().argmin(-1)]
        return codebooks(model, {"weight": nearest.detach()}, bits, None)

    model, peer = layer(), Peer("rounding", "torch", "torch", rounded)
    packed = compress(peer, model, Target.read("at3.9"), torch.zeros(1, 64))
    assert packed.how.endswith("codes of 2 bits") and packed.bytes <= 3.9 * 520 / 8
    assert len(torch.unique(installed(layer(), packed).weight)) <= 4
    with pytest.raises(RuntimeError, match="no file is small enough: 1 bits"):
        compress(peer, model, Target.read("at1.1"), torch.zeros(1, 64))


def test_target_text() -> None:
    assert [str(Target.read(text)) for text in ("4", "at1.333")] == ["4", "at1.333"]
    assert Target.read("at4").limit(1000) == 500 and Target.read("4").limit(1000) == float("inf")
