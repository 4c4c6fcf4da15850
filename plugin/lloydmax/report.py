"""The report: sizes, errors, agreement and time of one compression."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lloydmax import distributed
from lloydmax.checkpoint import Sizes
from lloydmax.codebook import Codebook
from lloydmax.outputs import Agreement
from lloydmax.plan import Plan


@dataclass(frozen=True)
class BeforeAfter:
    """One figure before and after recovery; ``None`` where it was not measured."""

    before: float | None
    after: float | None


@dataclass(frozen=True)
class Stage:
    """How good the model is at one stage.

    Attributes:
        name: ``original``, ``compressed``, the name of a recovery step, or ``finished``.
        agreement: with the teacher; ``None`` without data, and for the original itself.
        score: what the caller's ``evaluate`` said; ``None`` without it.
    """

    name: str
    agreement: Agreement | None
    score: float | None


@dataclass(frozen=True)
class LayerReport:
    """One compressed parameter.

    Attributes:
        name: full name.
        shape: of the weight.
        centroids: of one codebook.
        granularity: what shares a codebook.
        bits: fixed-width code bits of one weight.
        bytes: fixed-width codes and codebooks, as stored.
        snr: signal-to-noise ratio in dB of the weight, after recovery; infinite where it is kept exactly.
        trained: whether its centroids were trained.
    """

    name: str
    shape: tuple[int, ...]
    centroids: int
    granularity: str
    bits: float
    bytes: int
    snr: float
    trained: bool


@dataclass(frozen=True)
class Report:
    """What :func:`lloydmax.compress` measured.

    Attributes:
        recipe: its name.
        model: class name of the model.
        bytes: the four accountings ``packed``, ``entropy_coded``, ``gzip_float32``, ``file``, and ``original``.
        stages: agreement with the teacher, and the caller's own score, from the original to the finished model.
        measured_on: what the agreement was measured on, in words; ``None`` without data.
        layers: one entry for each compressed parameter, in forward order.
        recovery: what each recovery step said.
        seconds: wall time of each stage.
        seed: of all randomness.
    """

    recipe: str
    model: str
    bytes: Sizes
    stages: list[Stage]
    measured_on: str | None
    layers: list[LayerReport]
    recovery: list[dict[str, Any]]
    seconds: dict[str, float]
    seed: int
    environment: dict[str, str] = field(default_factory=lambda: environment())

    @property
    def reduction(self) -> float:
        """Share of the original bytes that the real file saves, 0 to 1."""
        return 1 - self.bytes.file / self.bytes.original

    @property
    def agreement(self) -> BeforeAfter:
        """Share of inputs with the teacher's top-1, 0 to 1, before and after recovery."""
        before, after = self._before_and_after()
        return BeforeAfter(before.top1 if before else None, after.top1 if after else None)

    @property
    def kl(self) -> BeforeAfter:
        """Mean KL divergence from the teacher in nats, before and after recovery."""
        before, after = self._before_and_after()
        return BeforeAfter(before.kl if before else None, after.kl if after else None)

    def _before_and_after(self) -> tuple[Agreement | None, Agreement | None]:
        return self.stages[1].agreement, self.stages[-1].agreement

    def to_dict(self) -> dict[str, Any]:
        """Plain data; numbers that JSON cannot hold (infinite, NaN) become ``None``."""
        data = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)} | {
            "bytes": self.bytes.to_dict(),
            "reduction": self.reduction,
            "agreement": self.agreement,
            "kl": self.kl,
        }
        plain: dict[str, Any] = _finite(data)
        return plain

    def to_json(self, path: str | Path) -> None:
        """Write the report as JSON."""
        if distributed.writes():
            Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        from lloydmax.tables import render, report_tables

        return render(*report_tables(self))


def layer_reports(plan: Plan, weights: dict[str, Tensor], held: dict[str, Codebook]) -> list[LayerReport]:
    """One :class:`LayerReport` for each planned parameter.

    Args:
        plan: the plan.
        weights: the original weights by name.
        held: the finished codebooks by name.
    """
    reports = []
    for p in plan.parameters.values():
        codebook = held[p.name]
        values = p.codebook_values if p.even else codebook.centroids.numel()
        reports.append(
            LayerReport(
                name=p.name,
                shape=p.shape,
                centroids=codebook.k,
                granularity=p.granularity,
                bits=codebook.bits_per_weight,
                bytes=p.code_bytes + values * (4 if p.even else plan.recipe.storage.float_bytes),
                snr=codebook.snr(weights[p.name]),
                trained=p.name in plan.trainable,
            )
        )
    return reports


def environment() -> dict[str, str]:
    """Machine and versions, for people who compare figures."""
    return {
        "lloydmax": importlib.metadata.version("lloydmax"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _finite(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
