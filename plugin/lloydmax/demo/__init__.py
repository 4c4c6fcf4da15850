"""The main job on an embedded model: 2-bit codebooks, recovered on pictures of another domain."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lloydmax.checkpoint import load
from lloydmax.compress import compress
from lloydmax.demo.network import DemoResNet
from lloydmax.demo.table import demo_table
from lloydmax.report.report import Report
from lloydmax.runtime.files import made_folder
from lloydmax.runtime.text import render

ASSETS = Path(__file__).parent / "assets"
_MEAN, _STD = 0.2860, 0.3530
"""Of the pixels of Fashion-MNIST, 0 to 1."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found and wrote.

    Attributes:
        report: of the compression; the scores are accuracies on labelled test pictures.
        file: the compressed model.
        report_file: the report as JSON.
        page: the report for a browser.
        same_after_reload: whether the reloaded model gave the same outputs, bit for bit.
    """

    report: Report
    file: Path
    report_file: Path
    same_after_reload: bool
    page: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "accuracy": {stage.name: stage.score for stage in self.report.stages},
            "times_smaller": self.report.bytes.original / self.report.bytes.file,
            "bytes": {"original": self.report.bytes.original, "file": self.report.bytes.file},
            "seconds": self.report.seconds,
            "same_after_reload": self.same_after_reload,
            "file": str(self.file),
            "report": str(self.report_file),
            "page": str(self.page),
        }

    def __str__(self) -> str:
        reloaded = "gives the same outputs, bit for bit" if self.same_after_reload else "DIFFERS"
        seconds = sum(self.report.seconds.values())
        return (
            f"{render(demo_table(self.report))}\n\n"
            f"No label was used but to print these accuracies. {seconds:.0f} s in all.\n"
            f"Compressed model:  {self.file}  (reloaded, it {reloaded})\n"
            f"Report:            {self.report_file}\n"
            f"As a page:         {self.page}"
        )


def normalized(pictures: Tensor) -> Tensor:
    """uint8 ``(N, 1, 28, 28)`` -> float32, as in training (mean and deviation of Fashion-MNIST)."""
    return (pictures.float() / 255 - _MEAN) / _STD


def network() -> DemoResNet:
    """The trained network: 10 classes of clothes, 28 x 28 grey pictures."""
    model = DemoResNet()
    state = load_file(ASSETS / "network.safetensors")
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return model.eval()


def silhouettes() -> Tensor:
    """10,000 unlabelled animal silhouettes, normalized ``(10000, 1, 28, 28)``: the other domain."""
    return normalized(torch.from_numpy(_array("silhouettes"))[:, None])


def test_set() -> tuple[Tensor, Tensor]:
    """The first 5,000 test pictures of Fashion-MNIST, normalized, and their labels ``(5000,)``, int64."""
    images = normalized(torch.from_numpy(_array("test-images"))[:, None])
    return images, torch.from_numpy(_array("test-labels")).long()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right answers, 0 to 1."""
    right = 0
    for part in torch.arange(len(images)).split(500):
        inputs = images[part].contiguous(memory_format=torch.channels_last)
        right += int((model(inputs).argmax(1) == labels[part]).sum())
    return right / len(images)


def run(folder: Path, progress: bool = True, listeners: Sequence[object] = ()) -> DemoResult:
    """Compress, recover, save, reload, compare.

    Args:
        folder: made if missing; gets ``model.safetensors``, ``report.json`` and ``report.html``.
        progress: show progress on stderr.
        listeners: plugin objects whose event hooks hear only this run.

    Raises:
        OutputError: the folder cannot be written.
    """
    made_folder(folder)
    images, labels = test_set()
    result = compress(
        network(),
        "demo",
        data=silhouettes(),
        evaluate=lambda model: accuracy(model, images, labels),
        progress=progress,
        listeners=listeners,
    )
    file, report_file = folder / "model.safetensors", folder / "report.json"
    result.save(file)
    result.report.to_json(report_file)
    reloaded = load(file, DemoResNet())
    with torch.no_grad():
        same = torch.equal(reloaded(images[:500]), result.model(images[:500]))
    page = folder / "report.html"
    result.report.to_html(page)
    return DemoResult(result.report, file, report_file, same, page)


def _array(name: str) -> np.ndarray:
    with lzma.open(ASSETS / f"{name}.npy.xz") as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array
