"""The command that ranks sets of inputs."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SmallNet
from lloydmax_command import main
from torch import Tensor, nn


@pytest.fixture
def trained(small_net: SmallNet, pictures: Tensor) -> SmallNet:
    """A network whose batch norms keep the statistics of ``pictures``."""
    for module in small_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        small_net.train()(pictures)
    return small_net.eval()


def test_the_command(tmp_path: Path, trained: SmallNet, pictures: Tensor) -> None:
    weights, own, other = (tmp_path / name for name in ("weights.pt", "own.npy", "other.npy"))
    torch.save(trained.state_dict(), weights)
    np.save(own, pictures.numpy())
    np.save(other, 5 * copy.deepcopy(pictures).numpy() + 1)
    base = ["evaluate", "--model", "conftest:SmallNet", "--weights", str(weights)]
    result = CliRunner().invoke(main, [*base, "--data-fitness", str(other), str(own), "--samples", "50"])
    assert result.exit_code == 0, result.output
    assert result.stdout.index("own.npy") < result.stdout.index("other.npy") and "class use" in result.stdout
    rows = json.loads(CliRunner().invoke(main, [*base, "--json", "--data-fitness", str(other), str(own)]).stdout)
    assert [Path(row["name"]).name for row in rows] == ["own.npy", "other.npy"] and rows[0]["distance"] < 1e-3
    for wrong in ([], ["--data-fitness"], [str(own)], ["--data-fitness", str(own), "--data", str(own)]):
        result = CliRunner().invoke(main, [*base, *wrong])
        assert result.exit_code == 2 and "--data-fitness" in result.stderr
    result = CliRunner().invoke(main, [*base, "--data-fitness", str(tmp_path / "nowhere.npy")])
    assert result.exit_code == 2 and "nowhere.npy" in result.stderr
