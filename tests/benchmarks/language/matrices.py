"""The matrices of a model, what they multiply, and their sizes: what every other method works on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_BATCH = 16
_LEAST_SHARE = 1e-3
"""Of a model's weights: smaller matrices stay as they are, in 16 bits."""


@dataclass(frozen=True)
class Matrix:
    """One weight.

    Attributes:
        name: of its module.
        module: the first that has it.
        table: whether an embedding looks rows up in it; it may be the head at the same time.
        head: the linear layer that shares a table.
    """

    name: str
    module: nn.Module
    table: bool
    head: nn.Module | None = None

    @property
    def transposed(self) -> bool:
        """Whether outputs are along axis 1, as in GPT-2's ``Conv1D``."""
        return type(self.module).__name__ == "Conv1D"

    def rows(self) -> Tensor:
        """Float32 ``(outputs, inputs)``."""
        weight = self.module.weight.detach()  # type: ignore[union-attr, operator]
        return (weight.t() if self.transposed else weight).float().clone(memory_format=torch.contiguous_format)

    def put(self, rows: Tensor) -> None:
        """In place of the weight."""
        with torch.no_grad():
            self.module.weight.copy_(rows.t() if self.transposed else rows)  # type: ignore[union-attr, operator]


def matrices(model: nn.Module) -> list[Matrix]:
    """Linear layers and embeddings, tied ones once, in the order of the modules."""
    least = _LEAST_SHARE * sum(p.numel() for p in model.parameters())
    found: dict[int, Matrix] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        known = isinstance(module, (nn.Linear, nn.Embedding)) or type(module).__name__ == "Conv1D"
        if not known or not isinstance(weight, Tensor) or weight.dim() != 2 or weight.numel() < least:
            continue
        if id(weight) in found:
            first = found[id(weight)]
            found[id(weight)] = Matrix(first.name, first.module, True, module)
        else:
            found[id(weight)] = Matrix(name, module, isinstance(module, nn.Embedding))
    return list(found.values())


def copied(model: nn.Module) -> nn.Module:
    """A student to write into."""
    return copy.deepcopy(model)


def run(model: nn.Module, data: Tensor) -> Iterable[Any]:
    """The outputs of a model, batch by batch."""
    for ids in data.split(_BATCH):
        yield model(ids)


def moments(model: nn.Module, data: Tensor, wanted: Sequence[Matrix]) -> dict[str, Tensor]:
    """The mean of ``x x^T`` over the inputs of each linear layer, float64 ``(inputs, inputs)``; of tables those of the
    head, if there is one."""
    sums: dict[str, tuple[Tensor, int]] = {}

    def hear(name: str) -> Callable[..., None]:
        def add(_: Any, args: Any) -> None:
            x = args[0].detach().reshape(-1, args[0].shape[-1])
            total, count = sums.get(name, (torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64), 0))
            sums[name] = total + (x.t() @ x).double(), count + len(x)

        return add

    with ExitStack() as stack, torch.no_grad():
        for one in wanted:
            module = one.head if one.table else one.module
            if module is not None:
                stack.callback(module.register_forward_pre_hook(hear(one.name)).remove)
        for _ in run(model, data):
            pass
    return {name: total / count for name, (total, count) in sums.items()}


def total_bits(model: nn.Module, spent: dict[str, float]) -> float:
    """Bits for each parameter of the model, where matrices take so many bits a weight, and all else 16.

    Args:
        model: the original.
        spent: by the names of :func:`matrices`.
    """
    weights = {one.name: one.rows().numel() for one in matrices(model)}
    total = sum(p.numel() for p in model.parameters())
    rest = total - sum(weights[name] for name in spent)
    return (16 * rest + sum(weights[name] * bits for name, bits in spent.items())) / total
