"""What the checks of data cost: their share of an epoch of distillation, and of opening the data.

    python tests/benchmarks/data_checks.py

The functions that look at every batch are timed inside of one epoch of ``distill``, the teacher's pass included. What
is looked through when data are opened is timed by itself, as a share of the same epoch.
"""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lloydmax import demo, distill, images
from lloydmax.data import Source, image_folder, sources
from lloydmax.data.items import Collating
from lloydmax.report import environment
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18


class Clock:
    """Seconds spent in functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            started = time.process_time()
            try:
                return function(*args)
            finally:
                self.seconds += time.process_time() - started

        return run


@contextmanager
def timing() -> Iterator[tuple[Clock, Clock]]:
    """Clocks of the checks of every batch, and of what is looked through when data are opened."""
    batches, opening = Clock(), Clock()
    places = [
        (sources, "faults", batches),
        (sources, "signature", batches),
        (Collating, "_misfit", batches),
        (Source, "look_through", opening),
        (image_folder, "unreadable", opening),
    ]
    kept = [getattr(place, name) for place, name, _ in places]
    try:
        for place, name, clock in places:
            setattr(place, name, clock.timed(getattr(place, name)))
        yield batches, opening
    finally:
        for (place, name, _), function in zip(places, kept, strict=True):
            setattr(place, name, function)


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def pictures(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    from PIL import Image

    for number in range(count):
        low = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(low).resize((320, 320), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")


def measured(name: str, model: nn.Module, data: Any, batch_size: int) -> None:
    torch.manual_seed(0)
    student = copy.deepcopy(model)
    with timing() as (batches, opening):
        started = time.process_time()
        distill(student, model, data, epochs=1, batch_size=batch_size, precision="float32", held_out=0.0)
        seconds = time.process_time() - started
    epoch = seconds - opening.seconds
    print(
        f"| {name} | {epoch:.2f} | {100 * batches.seconds / epoch:.2f} | {100 * opening.seconds / epoch:.2f} |",
        flush=True,
    )


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network and inputs | an epoch (s) | every batch (% of it) | opening (% of it) |")
    print("|---|---|---|---|")
    measured("demo ResNet, 5,000 x 1x28x28 in memory, batches of 128", demo.network(), demo.silhouettes()[:5000], 128)
    loader = DataLoader(TensorDataset(demo.silhouettes()[:5000]), batch_size=128)
    measured("the same from a DataLoader over a dataset", demo.network(), loader, 128)
    measured("MLP of 5 k weights, 20,000 x 64 in memory, batches of 128", plain(), torch.randn(20000, 64), 128)
    measured("ResNet-18, 128 x 3x224x224 in memory, batches of 32", resnet18(), torch.randn(128, 3, 224, 224), 32)
    with tempfile.TemporaryDirectory() as folder:
        pictures(Path(folder), 128)
        measured("ResNet-18, 128 JPEG files of 320x320, batches of 32", resnet18(), images(folder, workers=0), 32)
    print(", ".join(f"{name} {value}" for name, value in environment().items()))


if __name__ == "__main__":
    main()
