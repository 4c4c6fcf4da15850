"""What folding and equalization do for per-tensor codebooks of a mobile network, and for a per-tensor int8 grid.

    OMP_NUM_THREADS=1 python tests/benchmarks/equalize.py

EfficientNet-Lite0 with its ImageNet weights; every convolution and the classifier get one codebook of 2^b centroids
(fitted to the weights, nothing is trained), or one symmetric grid of 2^b levels. Agreement with the float network and
mean squared difference of the logits, relative to their mean square, on crops of photographs that no step saw. With
66 crops the agreement is good to about five points; the squared error says more. About 140 CPU seconds.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torchvision
from ao_models import efficientnet, folder_of
from lloydmax import fit_codebook, run_step
from lloydmax.network.graph import chains
from lloydmax.report import environment
from lloydmax.student.attachment import attach
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "plugin" / "integrations"))


CROPS, SIDE, BITS = 66, 224, (8, 6, 5)
PICTURES = (
    *("astronaut.png", "coffee.png", "chelsea.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png"),
    *("motorcycle_right.png", "rocket.jpg", "retina.jpg"),
)
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "batch norm folded": ("fold_batch_norm", {}),
    "equalize, cross_layer": ("equalize", {"samples": CROPS}),
    "equalize, rescale": ("equalize", {"method": "rescale", "samples": CROPS}),
    "equalize, batch_norm": ("equalize", {"method": "batch_norm"}),
}


def photos(seed: int) -> Tensor:
    """Random square crops ``(CROPS, 3, SIDE, SIDE)`` of the pictures of scikit-image and scikit-learn."""
    files = [folder_of("skimage") / "data" / name for name in PICTURES]
    files += sorted((folder_of("sklearn") / "datasets" / "images").glob("*.jpg"))
    rgb = torchvision.io.ImageReadMode.RGB
    pictures = [torchvision.io.decode_image(str(file), rgb).float() for file in files]
    generator, crops = torch.Generator().manual_seed(seed), []
    for number in range(CROPS):
        picture = pictures[number % len(pictures)]
        short = min(picture.shape[1:])
        side = int(torch.randint(int(0.35 * short), int(0.95 * short), (), generator=generator))
        top, left = (int(torch.randint(0, extent - side, (), generator=generator)) for extent in picture.shape[1:])
        crop = picture[None, :, top : top + side, left : left + side]
        crops.append(functional.interpolate(crop, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255))
    return ((torch.cat(crops) - 127) / 128).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(part) for part in x.split(11)])


def layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


def clustered(model: nn.Module, bits: int, granularity: str = "tensor") -> nn.Module:
    student = copy.deepcopy(model)
    for name, layer in layers(model).items():
        attach(student, f"{name}.weight", fit_codebook(layer.weight.detach(), 2**bits, granularity))
    return student


@torch.no_grad()
def on_grid(model: nn.Module, bits: int) -> nn.Module:
    student = copy.deepcopy(model)
    for layer in layers(student).values():
        step = layer.weight.abs().max() / (2 ** (bits - 1) - 1)
        layer.weight.copy_((layer.weight / step).round() * step)
    return student


def alike(student: nn.Module, x: Tensor, wanted: Tensor) -> str:
    found = logits(student, x)
    same = float((found.argmax(1) == wanted.argmax(1)).double().mean())
    return f"{100 * same:6.1f} % {float((found - wanted).square().mean() / wanted.square().mean()):7.4f}"


def widest_locked(model: nn.Module, student: nn.Module) -> tuple[int, int]:
    """In how many depthwise layers that a ReLU6 follows the filter with the largest range did not change."""
    kept = total = 0
    for link in chains(student)[0]:
        before, after = model.get_submodule(link.first).weight, student.get_submodule(link.first).weight
        if before.shape[1] == 1 and link.activation == "relu6":
            widest = int(before.abs().amax((1, 2, 3)).argmax())
            total, kept = total + 1, kept + int(torch.equal(before[widest], after[widest]))
    return kept, total


def main() -> None:
    started = time.process_time()
    teacher = efficientnet().to(memory_format=torch.channels_last)
    x, calibration = photos(0), photos(1)
    wanted = logits(teacher, x)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(f"{CROPS} crops, {wanted.argmax(1).unique().numel()} different answers; agreement and relative squared error")
    columns = [f"{bits}-bit codebooks" for bits in BITS] + ["8-bit grid"]
    print(f"{'':24}" + "".join(f"{column:>20}" for column in columns))
    models: dict[str, nn.Module] = {"as it is": teacher}
    for label, (step, options) in WAYS.items():
        models[label] = copy.deepcopy(teacher)
        found = run_step(step, models[label], teacher, calibration, **options)
        models[label].eval()
        off = float((logits(models[label], x) - wanted).abs().max() / wanted.abs().max())
        said = {key: round(found[key], 3) for key in ("locked", "channels", "largest_scale") if key in found}
        spread = f"{found['spread_before']:.2f} -> {found['spread_after']:.2f} bits" if "spread_after" in found else ""
        print(f"  {label}: {said} spread {spread or '-'}; before quantization the outputs are off by {off:.1e}")
        if label == "equalize, rescale":
            kept, total = widest_locked(models["batch norm folded"], models[label])
            print(f"  the widest filter is locked in {kept} of {total} depthwise layers")
    for label, model in models.items():
        cells = [alike(clustered(model, bits), x, wanted) for bits in BITS] + [alike(on_grid(model, 8), x, wanted)]
        print(f"{label:24}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
    cells = [alike(clustered(teacher, bits, "channel"), x, wanted) for bits in BITS[1:]]
    print(f"{'a codebook per channel':24}{'':20}" + "".join(f"{cell:>20}" for cell in cells))
    print(f"{time.process_time() - started:.0f} CPU seconds")


if __name__ == "__main__":
    main()
