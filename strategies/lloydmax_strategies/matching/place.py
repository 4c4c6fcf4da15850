"""A compressed layer of the student, with what can be changed so that it computes what the original does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from lloydmax.extend import Attached, attached
from torch import Tensor, nn

from lloydmax_strategies.matching.pair import Pair
from lloydmax_strategies.matching.preactivations import Stage, Sum, stages, tensor_at

Seen = tuple[Any, Any]
"""What was read of one call of the original and of the layer; ``None`` in place of a call that was not made."""
Change = Callable[[], None]


class Place:
    """One module with codebooks.

    Args:
        name: of the module in the student and in the original.
        module: of the student.
        run: its stages.
        codebooks: of its weights, by their names in it.
        alone: those of them that no other module has.

    Attributes:
        biases: of each sum that can be shifted, the name of a bias in floats.
        called: whether it is told by its calls, not by its outputs.
        rounds: how often its changes are made, each on top of the last.
        moved: by how much the sums were shifted last, root mean square, in deviations of the original's.
    """

    def __init__(
        self, name: str, module: nn.Module, run: list[Stage], codebooks: dict[str, Attached], alone: dict[str, Attached]
    ) -> None:
        self.name, self.called, self.rounds, self.moved = name, run[0].called, 1 + run[0].again, 0.0
        self._module, self._stages, self.alone = module, run, alone
        self.biases: dict[Sum, str] = {}
        for one in (one for stage in run for one in stage.sums):
            free = [bias for bias in one.biases if bias not in codebooks and tensor_at(module, bias) is not None]
            if free and codebooks.keys() & set(one.weights):
                self.biases[one] = free[0]

    def scaled(self, twin: nn.Module, seen: Iterable[Seen]) -> Iterator[Change]:
        """Changes that give each product the deviation of the original's.

        Args:
            twin: the module in the original.
            seen: what was read of both.
        """
        for stage, part in self._walk(twin, seen):
            pairs = {name: Pair() for one in stage.sums for name in one.weights if name in self.alone}
            for wanted, had in part:
                products = stage.products(twin, wanted), stage.products(self._module, had)
                for name, pair in pairs.items():
                    if _alike(*(of.get(name) for of in products)):
                        pair.add(*(of[name] for of in products))
            for name, pair in pairs.items():
                if pair.count:
                    yield partial(_scale, self.alone[name], pair)

    def shifted(self, twin: nn.Module, seen: Iterable[Seen], relative: bool) -> Iterator[Change]:
        """Changes that give each sum the mean of the original's.

        Args:
            twin: the module in the original.
            seen: what was read of both.
            relative: see :meth:`Pair.shift`.
        """
        shifts, variances = [], []
        for stage, part in self._walk(twin, seen):
            pairs = [Pair() for _ in stage.sums]
            for wanted, had in part:
                totals = stage.totals(twin, wanted), stage.totals(self._module, had)
                for pair, *both in zip(pairs, *totals, strict=True):
                    if _alike(*both):
                        pair.add(*both)
            for one, pair in zip(stage.sums, pairs, strict=True):
                if one in self.biases and pair.count:
                    shifts.append(pair.shift(relative))
                    variances.append(pair.variance())
                    yield partial(_shift, tensor_at(self._module, self.biases[one]), one.channels, shifts[-1])
        if shifts:
            self.moved = float(
                (torch.cat(shifts).square().mean() / torch.cat(variances).mean().clamp(min=1e-30)).sqrt()
            )

    def _walk(self, twin: nn.Module, seen: Iterable[Seen]) -> Iterator[tuple[Stage, Iterable[Seen]]]:
        """Each stage with what it gets; the one after it sees what was changed meanwhile."""
        part = (both for both in seen if all(one is not None for one in both))
        for stage in self._stages[:-1]:
            kept = list(part)
            yield stage, kept
            part = [(stage.after(twin, wanted), stage.after(self._module, had)) for wanted, had in kept]
        yield self._stages[-1], part


def places(student: nn.Module) -> dict[nn.Module, Place]:
    """The modules with compressed weights whose sums are known."""
    held: dict[nn.Module, dict[str, Attached]] = {}
    uses = Counter(id(one.weight) for one in attached(student))
    names = {module: name for name, module in student.named_modules()}
    for one in attached(student):
        held.setdefault(one.module, {})[one.leaf] = one
    for module in names:
        if isinstance(module, nn.MultiheadAttention):
            inner = held.pop(module.out_proj, {})
            held[module] = held.get(module, {}) | {f"out_proj.{leaf}": one for leaf, one in inner.items()}
    found = {module: stages(module) for module in names if held.get(module)}
    return {
        module: Place(names[module], module, run, held[module], _alone(held[module], uses))
        for module, run in found.items()
        if run
    }


def _alone(held: dict[str, Attached], uses: Counter[int]) -> dict[str, Attached]:
    return {name: one for name, one in held.items() if uses[id(one.weight)] == 1}


def _alike(wanted: Tensor | None, had: Tensor | None) -> bool:
    return wanted is not None and had is not None and wanted.shape == had.shape


@torch.no_grad()
def _scale(held: Attached, pair: Pair) -> None:
    owners = held.weight.layout.owners(held.centroids.device)
    ratio = pair.ratio(owners.repeat(pair.channels // len(owners)))  # groups of transposed convolutions share an axis
    held.centroids.mul_(ratio.view(-1, *[1] * (held.centroids.dim() - 1)).to(held.centroids))


@torch.no_grad()
def _shift(bias: Tensor, channels: slice, shift: Tensor) -> None:
    bias[channels].add_(shift.to(bias))
