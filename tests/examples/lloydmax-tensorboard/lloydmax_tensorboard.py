"""TensorBoard events of lloydmax runs: an example of a third party's plugin.

Once installed, it writes the events of every run, whoever starts it, to the folder that the environment variable
``LLOYDMAX_TENSORBOARD`` names; without the variable it does nothing::

    pip install ./lloydmax-tensorboard
    LLOYDMAX_TENSORBOARD=runs/first lloydmax demo
    tensorboard --logdir runs

In Python one run can be given a folder of its own: ``lloydmax.compress(..., listeners=[TensorBoard("runs/second")])``.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import lloydmax
from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """An event listener that writes to ``folder``.

    Scalars ``STAGE/METRIC`` for every step and for what a stage measured, ``seconds/STAGE``, ``bits/PARAMETER``, and a
    histogram ``centroids/PARAMETER`` of every fitted codebook.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = folder
        self._steps: dict[str, int] = {}

    @cached_property
    def _writer(self) -> SummaryWriter:
        return SummaryWriter(str(self._folder))

    @lloydmax.hookimpl
    def lloydmax_step(self, step: str, index: int, metrics: dict[str, float]) -> None:
        """A hook may leave out the arguments that it does not need."""
        for name, value in metrics.items():
            self._writer.add_scalar(f"{step}/{name}", value, index)

    @lloydmax.hookimpl
    def lloydmax_parameter_fitted(self, name: str, codebook: lloydmax.Codebook) -> None:
        """What the codebook looks like before recovery."""
        self._writer.add_scalar(f"bits/{name}", codebook.bits_per_weight, 0)
        self._writer.add_histogram(f"centroids/{name}", codebook.centroids.detach().float(), 0)

    @lloydmax.hookimpl
    def lloydmax_stage_finished(self, stage: str, seconds: float, metrics: dict[str, Any]) -> None:
        """A stage such as ``measure`` comes several times: number ``n`` of it is at step ``n``."""
        number = self._steps[stage] = self._steps.get(stage, 0) + 1
        self._writer.add_scalar(f"seconds/{stage}", seconds, number)
        for name, value in metrics.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"{stage} finished/{name}", value, number)
        self._writer.flush()


class _Nothing:
    """A plugin without hooks."""


plugin = TensorBoard(folder) if (folder := os.environ.get("LLOYDMAX_TENSORBOARD")) else _Nothing()
