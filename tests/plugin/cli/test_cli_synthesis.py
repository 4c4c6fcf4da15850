"""Synthesized images instead of data, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SmallNet
from lloydmax_command import main
from torch import nn


@pytest.fixture
def teacher(small_net: SmallNet) -> SmallNet:
    """Its statistics are those of smooth, bright pictures."""
    generator = torch.Generator().manual_seed(3)
    x = nn.functional.interpolate(torch.randn(256, 3, 4, 4, generator=generator), 12, mode="bilinear") + 0.5
    for module in small_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        small_net.train()(x)
    return small_net.eval()


def test_the_commands_take_synthesized_images(tmp_path: Path, teacher: SmallNet) -> None:
    weights, recipe, out, other = (tmp_path / name for name in ("w.pt", "r.yaml", "m.safetensors", "other.npy"))
    torch.save(teacher.state_dict(), weights)
    recipe.write_text("quantize: [{layers: all, centroids: 4}]\nrecover: [{step: renormalize, samples: 8}]\n")
    np.save(other, np.zeros((8, 3, 12, 12), np.float32))
    model = ["--model", "conftest:SmallNet", "--weights", str(weights), "--image-size", "12"]
    made = ["--data", "synthesize:8", "--recipe", str(recipe), "--out", str(out), "--quiet"]
    result = CliRunner().invoke(main, ["compress", *model, *made])
    assert result.exit_code == 0 and "8 samples" in result.stdout and out.exists()
    ranked = CliRunner().invoke(main, ["evaluate", *model, "--json", "--data-fitness", "synthesize:8", str(other)])
    assert [row["name"] for row in json.loads(ranked.stdout)] == ["synthesize:8", str(other)]
    result = CliRunner().invoke(main, ["compress", *model, *made[2:], "--data", "synthesize:many"])
    assert result.exit_code == 2 and "number of images" in result.stderr
