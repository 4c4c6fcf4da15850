"""How close the two modes of re-normalization come to their definition, and what they cost.

    python tests/benchmarks/renormalize.py

The definition: one forward pass of all 1,000 samples in batch-statistics mode, no moving average. The model is the
demo's network with 2-bit codebooks. ``relative`` moves the teacher's statistics and does not aim at that definition.
"""

from __future__ import annotations

import copy
import time

import torch
from lloydmax import demo, fit_codebook, renormalize
from lloydmax.report import environment
from lloydmax.student.attachment import attach
from torch import nn

SAMPLES = 1000  # every tenth silhouette


def running(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "running" in name}


def main() -> None:
    teacher, data = demo.network(), demo.silhouettes()[::10]
    student = copy.deepcopy(teacher)
    for name, module in teacher.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            attach(student, f"{name}.weight", fit_codebook(module.weight, 4))
    definition = copy.deepcopy(student).train()
    for module in definition.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        definition(data)
    expected = running(definition)
    images, labels = demo.test_set()
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(f"{'':34} {'seconds':>8} {'mean off':>9} {'variance off':>13} {'test accuracy':>14}")
    ways = {
        "not re-normalized": None,
        "exact, one batch": {},
        "exact, layer by layer, batches of 64": {"memory": 1e-6},
        "fast, batches of 64": {"mode": "fast"},
        "fast, batches of 16": {"mode": "fast", "batch_size": 16},
        "relative (another definition)": {"relative": True, "teacher": teacher},
        "relative, fast, batches of 64": {"relative": True, "mode": "fast", "teacher": teacher},
    }
    for label, options in ways.items():
        model, started = copy.deepcopy(student), time.perf_counter()
        if options is not None:
            renormalize(model, data, samples=SAMPLES, **options)
        seconds, found = time.perf_counter() - started, running(model)
        off = {"mean": 0.0, "var": 0.0}
        for name, value in found.items():
            kind = name.rpartition("_")[2]
            spread = expected[name.replace("mean", "var")]
            scale = spread.sqrt() if kind == "mean" else spread
            off[kind] = max(off[kind], float(((value - expected[name]).abs() / (scale + 1e-8)).max()))
        with torch.no_grad():
            right = demo.accuracy(model.eval(), images, labels)
        print(f"{label:34} {seconds:8.2f} {off['mean']:9.1e} {off['var']:13.1e} {100 * right:12.2f} %")


if __name__ == "__main__":
    main()
