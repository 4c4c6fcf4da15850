"""The command line without a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import lloydmax
import numpy as np
from click.testing import CliRunner
from lloydmax import demo
from lloydmax_command import main


def test_the_command_needs_no_recipe(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", demo.silhouettes()[:96].numpy())
    common = ["--model", "lloydmax.demo:network", "--data", str(tmp_path / "data.npy")]
    options = ["--bits", "2.5", "--effort", "0.03", "--out", str(tmp_path / "a.safetensors"), "--json", "--quiet"]
    done = CliRunner().invoke(main, ["compress", *common, *options])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    stages = {stage["name"]: stage["agreement"]["kl"] for stage in report["stages"][1:]}
    assert stages["distill"] < stages["compressed"]
    count = sum(p.numel() for p in demo.network().parameters())
    assert (tmp_path / "a.safetensors").stat().st_size <= 1.01 * 2.5 * count / 8

    wrote = CliRunner().invoke(main, ["recipe", *common, "--bits", "3", "--out", str(tmp_path / "r.yaml")])
    assert wrote.exit_code == 0 and lloydmax.Recipe.load(tmp_path / "r.yaml").bits == 3
    neither = CliRunner().invoke(main, ["compress", *common, "--out", str(tmp_path / "b.safetensors")])
    assert neither.exit_code == 2 and "--bits 4" in neither.output
