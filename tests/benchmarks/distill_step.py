"""What one step of distillation costs beyond the bare forward, backward and optimizer step of the student.

    python tests/benchmarks/distill_step.py

Both run the demo's compressed network on the same inputs, in turn, several times; the ratio of each pair is taken.
The teacher's outputs were computed before, as they are without augmentation.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from lloydmax import codebooks, demo, distill, fit_codebook, hookimpl
from lloydmax.report import environment
from lloydmax.student.attachment import attach
from torch import nn

STEPS, BATCH, ROUNDS = 15, 128, 5


class Clock:
    """Notes the time of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @hookimpl
    def lloydmax_step(self, metrics: dict[str, Any]) -> None:
        if "loss" in metrics:
            self.times.append(time.perf_counter())


def distill_seconds(student: nn.Module, teacher: nn.Module, data: torch.Tensor) -> float:
    clock = Clock()
    distill(
        student, teacher, data, steps=STEPS + 1, batch_size=BATCH, precision="float32", held_out=0.0, listeners=[clock]
    )
    return (clock.times[-1] - clock.times[0]) / STEPS


def bare_seconds(student: nn.Module, targets: torch.Tensor, data: torch.Tensor) -> float:
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], fused=True)
    data = torch.empty_like(data, memory_format=torch.channels_last).copy_(data)
    started = 0.0
    for step in range(STEPS + 1):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        loss = F.mse_loss(student(data[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        started = started or time.perf_counter()
    return (time.perf_counter() - started) / STEPS


def main() -> None:
    torch.manual_seed(0)
    teacher, data = demo.network(), demo.silhouettes()[: (STEPS + 1) * BATCH]
    with torch.no_grad():
        targets = torch.cat([teacher(part) for part in data.split(500)])
    student = copy.deepcopy(teacher)
    for name, module in teacher.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            attach(student, f"{name}.weight", fit_codebook(module.weight, 4))
    assert len(codebooks(student)) == 16
    pairs = []
    for _ in range(ROUNDS):
        pairs.append(
            (
                distill_seconds(copy.deepcopy(student), teacher, data),
                bare_seconds(copy.deepcopy(student), targets, data),
            )
        )
    ratios = [ours / bare for ours, bare in pairs]
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(f"distill step  {1e3 * statistics.median(p[0] for p in pairs):7.2f} ms (median of {ROUNDS} x {STEPS} steps)")
    print(f"bare step     {1e3 * statistics.median(p[1] for p in pairs):7.2f} ms")
    print(f"ratio         {statistics.median(ratios):.3f}  (from {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
