"""The evidence of the smallest file runs end to end, takes up where it stopped, and counts peers' bytes as it says."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPT = Path(__file__).parent / "accuracy_at_size.py"
sys.path.insert(0, str(SCRIPT.parent))

from size.packing import codebooks, groups, installed  # noqa: E402
from size.peers import Peer, compress  # noqa: E402
from size.target import Target  # noqa: E402


def evidence(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--folder", str(folder), "--plots", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(find_spec("digit_recognizer") is None or find_spec("mlxtend") is None, reason="no digit network")
def test_a_cell_is_measured_once_and_shown(tmp_path: Path) -> None:
    chosen = ("--network", "digit-cnn", "--method", "lloydmax", "--bits", "2")
    first = evidence(tmp_path, *chosen)
    assert first.returncode == 0, first.stderr
    (cell,) = (tmp_path / "cells").iterdir()
    figures = json.loads(cell.read_text())["figures"]
    assert figures["bits_per_weight"] < 2.1 and figures["accuracy"] > 0.95 and figures["memory"] > 0
    assert "lloydmax, without data | 2 bits |" in first.stdout
    assert (tmp_path / "accuracy_at_size_digit-cnn.png").read_bytes()[:4] == b"\x89PNG"

    written = cell.stat().st_mtime_ns
    again = evidence(tmp_path, *chosen)
    assert again.stdout == first.stdout and cell.stat().st_mtime_ns == written


def test_no_such_cell(tmp_path: Path) -> None:
    wrong = evidence(tmp_path, "--method", "loydmax")
    assert wrong.returncode == 2 and "--list" in wrong.stderr


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
