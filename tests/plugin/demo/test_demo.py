"""The demo: its assets, and the whole run (slow)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lloydmax import demo, plan


def test_assets_are_small_and_the_network_is_trained() -> None:
    assert sum(file.stat().st_size for file in demo.ASSETS.iterdir()) < 6e6
    images, labels = demo.test_set()
    assert images.shape == (5000, 1, 28, 28) and demo.silhouettes().shape == (10_000, 1, 28, 28)
    with torch.no_grad():
        assert demo.accuracy(demo.network(), images[:1000], labels[:1000]) > 0.92


def test_the_recipe_predicts_the_promised_size() -> None:
    made = plan(demo.network(), "demo")
    assert made.original_bytes / made.predicted_bytes > 14


@pytest.mark.slow
def test_the_demo_keeps_its_promise(tmp_path: Path) -> None:
    result = demo.run(tmp_path, progress=False)
    report = result.report
    assert result.same_after_reload and result.file.stat().st_size == report.bytes.file
    assert report.bytes.original / report.bytes.file >= 14
    assert report.stages[-1].score >= report.stages[0].score - 0.006
