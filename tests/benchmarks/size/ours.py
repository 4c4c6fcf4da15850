"""lloydmax's cells: the recipe of each level, and the file that it gives."""

from __future__ import annotations

import copy
import tempfile
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
    "lloydmax-channel": "lloydmax, without data, a codebook a channel",
    "lloydmax-renormalize": "lloydmax, re-normalized (without batch norm: biases corrected)",
    "lloydmax-full": "lloydmax, full label-free recovery",
}
"""Method -> title."""
SAMPLES, CORRECTED = 1000, 256
"""Inputs of the re-normalization, and of the correction of biases."""
MOST = 256
"""Centroids."""

Recipe = dict[str, Any]


def full_recipe(model: nn.Module, target: Target, inputs: Sequence[Any], effort: str) -> lloydmax.Recipe:
    """The best that lloydmax can do for a size, training included.

    Args:
        model: the teacher.
        target: the size; the whole file has its bits, also where others have only codes of so many.
        inputs: batches of unlabelled inputs.
        effort: how long the training may take: ``low``, ``medium``, ``high`` or ``highest``.
    """
    return lloydmax.recipe_for(
        model, target.bits, inputs, {"low": 0.3, "medium": 1.0, "high": 2.5, "highest": 10.0}[effort]
    )


def compress(method: str, network: Network, model: nn.Module, target: Target, effort: str, file: Path) -> None:
    """The file of one cell.

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
    data = Batches(network.unlabelled()) if method in ("lloydmax-renormalize", "lloydmax-full") else None
    if method == "lloydmax-full":
        assert data is not None
        recipe = full_recipe(model, target, data, effort)
    else:
        granularity = "channel" if method == "lloydmax-channel" else "tensor"
        steps = [_statistics(model)] if data is not None else []
        recipe = _recipe(model, largest(model, target, granularity), granularity, steps)
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


def largest(model: nn.Module, target: Target, granularity: str) -> int:
    """The most centroids whose file is small enough.

    Raises:
        RuntimeError: the smallest file is too large.
    """
    if not target.file:
        return int(2**target.bits)
    fits, above = 1, MOST + 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        while above - fits > 1:
            tried = (fits + above) // 2
            lloydmax.compress(model, _recipe(model, tried, granularity, []), progress=False).save(file)
            small = file.stat().st_size <= target.limit(scalars(model)) - SPARE
            fits, above = (tried, above) if small else (fits, tried)
    if fits == 1:
        raise RuntimeError(f"two centroids for each {granularity} make a larger file than {target.title} bits a weight")
    return fits


SPARE = 256
"""Bytes that the recovery steps may add to a file: their names and options in its recipe."""


def _recipe(model: nn.Module, centroids: int, granularity: str, steps: list[dict[str, Any]]) -> Recipe:
    shared = {"centroids": centroids, "granularity": granularity}
    tables = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    embeddings = [name for name, table in tables.items() if table.num_embeddings > MOST]
    return {
        "version": 1,
        "name": "accuracy-at-size",
        "quantize": [{"layers": names, **shared} for names in ("all", embeddings) if names],
        "trainable": ["none"],
        "recover": steps,
        "storage": {"floats": "float16", "codes": "entropy"},
    }


def _statistics(model: nn.Module) -> dict[str, Any]:
    """The batch norms' statistics anew, or, without batch norm, the biases."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return {"step": "renormalize", "mode": "fast", "samples": SAMPLES, "relative": True}
    return {"step": "correct_bias", "samples": CORRECTED}


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
