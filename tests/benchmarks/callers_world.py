"""What other threads notice of a compression, and what the private tree of the teacher costs.

Usage:
    python tests/benchmarks/callers_world.py threads [--threads 8] [--times 50]
    python tests/benchmarks/callers_world.py private
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import platform
import statistics
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import lloydmax
import torch
import torchvision
from lloydmax.network.private import private
from torch import Tensor, nn

CODES = {"quantize": [{"layers": "all", "centroids": 6}], "trainable": ["all"]}
INT8: dict[str, Any] = {"quantize": [{"layers": "all", "quantizer": "uniform", "bits": 8}], "activations": {"bits": 8}}
STEPS: list[dict[str, Any]] = [
    {"step": "renormalize"},
    {"step": "renormalize", "relative": True},
    {"step": "correct_bias"},
    {"step": "equalize"},
    {"step": "fold_batch_norm"},
    {"step": "reconstruct"},
    {"step": "distill", "steps": 2},
    {"step": "distill", "steps": 2, "codes": "learn", "features": 10.0, "augment": ["flip"], "mixup": 0.2},
    {"step": "align", "steps": 2},
]
RECIPES: dict[str, dict[str, Any]] = {
    "codebooks alone": CODES,
    **{
        " ".join(f"{k} {v}".removeprefix("step ") for k, v in step.items()): {**CODES, "recover": [step]}
        for step in STEPS
    },
    "importance fisher": {"quantize": [{"layers": "all", "centroids": 6, "importance": "fisher"}]},
    "importance inputs": {"quantize": [{"layers": "all", "centroids": 6, "importance": "inputs"}]},
    "int8": INT8,
    "int8, train_thresholds": {**INT8, "recover": [{"step": "train_thresholds", "steps": 2}]},
    "int8, train_multipliers": {**INT8, "recover": [{"step": "train_multipliers", "steps": 2}]},
}


class Small(nn.Module):
    """Two convolutions with batch norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.norm2 = nn.Conv2d(6, 8, 3, 2, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm2(self.second(torch.relu(self.norm1(self.first(x))))))
        return self.head(x.mean((2, 3)))


def _model() -> Small:
    """The same each time, whatever other threads draw."""
    generator, model = torch.Generator().manual_seed(0), Small()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if tensor.dim() == 1 else -0.5))
    return model.eval()


def _digest(model: nn.Module, recipe: Any, data: Tensor, folder: Path) -> str:
    path = folder / f"{threading.get_ident()}.safetensors"
    lloydmax.compress(model, recipe, data, progress=False).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def threads(count: int, times: int) -> None:
    """Compressions in several threads at once, on one model and on a model each, against one alone."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data, shared = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)), _model()
    print(f"| {count} threads, {times} compressions each | one model: files that differ | models of their own |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in RECIPES.items():
            alone = _digest(_model(), recipe, data, Path(folder))
            cells = [_differing(count, times, alone, recipe, data, Path(folder), model) for model in (shared, None)]
            print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)


def _differing(
    count: int, times: int, alone: str, recipe: Any, data: Tensor, folder: Path, shared: nn.Module | None
) -> str:
    found: list[str] = []

    def work() -> None:
        for _ in range(times):
            try:
                found.append(_digest(shared or _model(), recipe, data, folder))
            except Exception as error:
                found.append(repr(error))

    started = [threading.Thread(target=work) for _ in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return f"{sum(digest != alone for digest in found)} of {len(found)}"


def cost() -> None:
    """The private tree of a ResNet-50: time against a compression, memory beyond the model."""
    model = torchvision.models.resnet50().eval()
    seconds = []
    for _ in range(21):
        started = time.perf_counter()
        private(model)
        seconds.append(time.perf_counter() - started)
    gc.collect()
    tracemalloc.start()
    mine = private(model)
    gc.collect()
    objects, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pairs = zip((*mine.parameters(), *mine.buffers()), (*model.parameters(), *model.buffers()), strict=True)
    copied = sum(one.nbytes for one, other in pairs if one.data_ptr() != other.data_ptr())
    started = time.perf_counter()
    lloydmax.compress(model, {"quantize": [{"layers": "all", "centroids": 16}]}, progress=False)
    whole = time.perf_counter() - started
    took = statistics.median(seconds)
    print(
        f"private tree of ResNet-50: {took * 1e3:.1f} ms, {100 * took / whole:.2f} % of a compression to 16 centroids"
    )
    print(f"memory: {copied / 1e3:.0f} kB of copied buffers, {objects / 1e3:.0f} kB of Python's objects")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["threads", "private"])
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--times", type=int, default=50)
    given = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, Python {sys.version.split()[0]}\n")
    threads(given.threads, given.times) if given.what == "threads" else cost()
