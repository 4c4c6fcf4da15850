"""lloydmax's cells: the recipe of each level, and the file that it gives."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lloydmax
from torch import nn

from size.networks import Network, Prepared
from size.packing import scalars
from size.target import Target

LEVELS = {
    "lloydmax": "lloydmax, without data",
    "lloydmax-renormalize": "lloydmax, with data, not trained",
    "lloydmax-full": "lloydmax, full label-free recovery",
}
"""Method -> title."""
EFFORTS = {"low": 0.3, "medium": 1.0, "high": 2.5, "highest": 10.0}


def compress(method: str, network: Network, model: nn.Module, target: Target, effort: str, file: Path) -> None:
    """The file of one cell: the whole file has the target's bits, also where others have only codes of so many.

    Args:
        method: one of :data:`LEVELS`.
        network: whose unlabelled inputs may be used.
        model: the teacher.
        target: the size.
        effort: of the full recovery.
        file: to write.

    Raises:
        RuntimeError: the smallest file is too large.
    """
    data = None if method == "lloydmax" else Batches(network.unlabelled())
    recipe = lloydmax.recipe_for(model, target.bits, data, EFFORTS[effort] if method == "lloydmax-full" else 0.0)
    result = lloydmax.compress(model, recipe, data=data, progress=False)
    result.save(file)
    size = file.stat().st_size
    if size > target.limit(scalars(model)):
        file.unlink()
        raise RuntimeError(f"the file takes {size} bytes, more than {int(target.limit(scalars(model)))}")


def loaded(model: nn.Module, file: Path) -> tuple[nn.Module, list[str]]:
    """The compressed model, and the names of the weights left float.

    Args:
        model: the teacher; not changed.
        file: from :func:`compress`.
    """
    student = lloydmax.load(file, copy.deepcopy(model))
    held = lloydmax.codebooks(student)
    return student, [name for name, parameter in model.named_parameters() if parameter.dim() > 1 and name not in held]


class Batches(Sequence[Any]):
    """Inputs in batches of 50, made when they are asked for."""

    def __init__(self, inputs: Prepared, size: int = 50) -> None:
        self.inputs, self.size = inputs, size

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.size)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return self.inputs.batch(index * self.size, (index + 1) * self.size)
