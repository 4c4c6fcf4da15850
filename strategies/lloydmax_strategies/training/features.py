"""What a student mimics on the way: the outputs of the blocks of a network."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from lloydmax.extend import Batch, device_of
from torch import Tensor, nn

_FLOOR = 1e-6
"""Least mean square of a block's outputs by which a difference is divided."""


def blocks(model: nn.Module) -> list[str]:
    """Names of the outermost modules that stand in a ``Sequential`` or ``ModuleList`` and have parameters: stages of
    residual blocks, layers of a transformer."""
    found: list[str] = []

    def visit(module: nn.Module, name: str) -> None:
        for key, child in module.named_children():
            full = f"{name}.{key}" if name else key
            listed = isinstance(module, (nn.Sequential, nn.ModuleList))
            if listed and not isinstance(child, (nn.Sequential, nn.ModuleList)):
                if any(True for _ in child.parameters()):
                    found.append(full)
            else:
                visit(child, full)

    visit(model, "")
    return found


class Features:
    """Listens to the same blocks of student and teacher, between :meth:`start` and :meth:`distance`.

    Args:
        student: none of its blocks is replaced until :meth:`close`.
        teacher: has modules of the same names.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        self._stack = ExitStack()
        self._outputs: dict[int, list[Tensor]] = {id(student): [], id(teacher): []}
        self._models, self._device = (student, teacher), device_of(student)
        self._inputs: Batch | None = None
        names = [name for name in blocks(teacher) if _has(student, name)]
        for model in self._models:
            for name in names:
                hook = model.get_submodule(name).register_forward_hook(self._keeper(name, self._outputs[id(model)]))
                self._stack.callback(hook.remove)

    def _keeper(self, name: str, outputs: list[Tensor]) -> Any:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            if self._inputs is not None and isinstance(first, Tensor) and first.is_floating_point():
                outputs.append(self._inputs.unpadded(first, name))

        return keep

    def start(self, inputs: Batch) -> None:
        """Listen to what runs from now on: each model once, on these inputs."""
        self._inputs = inputs

    def distance(self) -> Tensor:
        """Mean over the blocks of the squared difference, without padding, over the teacher's mean square; 0-dim."""
        self._inputs = None
        ours, theirs = (self._outputs[id(model)] for model in self._models)
        pairs = [(mine.float(), goal.float()) for mine, goal in zip(ours, theirs, strict=True)]
        parts = [(mine - goal).square().mean() / goal.square().mean().clamp(min=_FLOOR) for mine, goal in pairs]
        ours.clear()
        theirs.clear()
        return torch.stack(parts).mean() if parts else torch.zeros((), device=self._device)

    def close(self) -> None:
        """Stop listening."""
        self._stack.close()


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
