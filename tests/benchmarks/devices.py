"""What the work takes on a GPU and on the CPU of the same machine, in Markdown.

    python tests/benchmarks/devices.py [--devices cpu cuda] [--steps 10]

Fitting codebooks to a 4096 x 4096 weight; one step of the recovery that ``lloydmax.recipe_for`` chooses, on
MobileNet-v2 at 224 x 224; ResNet-50 at batch 32 in float32, from the cache and decoded on the fly, and its weights'
memory. Weights and inputs are random; times are medians of wall-clock time.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import lloydmax
import torch
import torchvision
from distill_step import Clock
from lloydmax.report import environment
from lloydmax.student.attachment import attach, finish
from torch import nn

SIZE, BATCH = 4096, 32
FITS = {"16 centroids": (16, "tensor"), "16 centroids a channel": (16, "channel"), "256 centroids": (256, "tensor")}


def seconds(run: Callable[[], Any], device: str, rounds: int = 5) -> float:
    """The median, after a first run that does not count."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def fits(device: str) -> dict[str, str]:
    """Codebooks of one weight."""
    torch.manual_seed(0)
    weight = torch.randn(SIZE, SIZE).to(device)
    return {
        f"fit {title}, {SIZE} x {SIZE}": f"{seconds(lambda how=how: lloydmax.fit_codebook(weight, *how), device):.2f} s"
        for title, how in FITS.items()
    }


def recovery(device: str, steps: int) -> dict[str, str]:
    """One step of training student and teacher together."""
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(weights=None).eval().to(device)
    data = torch.randn(4 * BATCH, 3, 224, 224)
    recipe = lloydmax.recipe_for(model, 4, data).data()
    step = {**recipe["recover"][-1], "steps": steps + 2, "held_out": 0.0}
    quick = {"quantize": [rule | {"importance": None} for rule in recipe["quantize"]], "recover": [step]}
    clock = Clock()
    lloydmax.compress(model, recipe | quick, data, listeners=[clock], progress=False)
    apart = [b - a for a, b in zip(clock.times[1:], clock.times[2:], strict=False)]
    return {f"a step of recovery, MobileNet-v2, {BATCH} pictures": f"{1e3 * statistics.median(apart):.0f} ms"}


@torch.inference_mode()
def inference(device: str) -> dict[str, str]:
    """A network from its codes."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval().to(device)
    small = copy.deepcopy(model)
    for name, parameter in list(small.named_parameters()):
        if parameter.dim() > 1:
            attach(small, name, lloydmax.fit_codebook(parameter, 16))
    small = finish(small).eval()
    x = torch.randn(BATCH, 3, 224, 224, device=device)
    runs = {"float32": model, "16 centroids, cached": small}
    told = {way: f"{1e3 * seconds(lambda net=net: net(x), device):.1f} ms" for way, net in runs.items()}
    small = lloydmax.set_cache(small, False)
    told["16 centroids, decoded on the fly"] = f"{1e3 * seconds(lambda: small(x), device):.1f} ms"
    held = {"float32": _held(model), "16 centroids, decoded on the fly": _held(small)}
    times = {f"ResNet-50, {BATCH} pictures, {way}": taken for way, taken in told.items()}
    return times | {f"ResNet-50, memory of the model, {way}": f"{size / 1e6:.0f} MB" for way, size in held.items()}


def _held(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    parser.add_argument("--devices", nargs="*", default=found)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    names = [torch.cuda.get_device_name(d) if d != "cpu" else "CPU" for d in arguments.devices]
    print(", ".join(f"{key} {value}" for key, value in environment().items()), "\n")
    columns = [fits(d) | recovery(d, arguments.steps) | inference(d) for d in arguments.devices]
    print(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for row in columns[0]:
        print(f"| {row} | {' | '.join(column[row] for column in columns)} |")


if __name__ == "__main__":
    main()
