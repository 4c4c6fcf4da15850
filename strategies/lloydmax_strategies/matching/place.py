"""A compressed layer of the student, with what can be changed so that it computes what the original does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lloydmax.extend import CodebookWeight, attached
from torch import Tensor, nn

from lloydmax_strategies.matching.pair import Pair, ratio
from lloydmax_strategies.matching.preactivations import Products, Stage, Sum, stages, tensor_at

Seen = tuple[Any, Any]
"""What was read of one call of the original and of the layer."""
Change = Callable[[], None]
Held = tuple[CodebookWeight, Tensor]
"""Codes and centroids of a weight."""


@dataclass(frozen=True)
class How:
    """What is made like the original's.

    Attributes:
        scales: the deviation of products, too.
        relative: see :meth:`Pair.shift`; of gates it is always the mean itself, as sigmoids keep no proportion.
        rounds: whether changes that have an effect on themselves are made twice.
    """

    scales: bool
    relative: bool
    rounds: bool


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
        moved: by how much the sums were shifted last, root mean square, in deviations of the original's.
    """

    def __init__(
        self, name: str, module: nn.Module, run: list[Stage], codebooks: dict[str, Held], alone: dict[str, Held]
    ) -> None:
        self.name, self.called, self.moved = name, run[0].called, 0.0
        self._module, self._stages, self._alone = module, run, alone
        self.biases: dict[Sum, str] = {}
        for one in (one for stage in run for one in stage.sums):
            free = [bias for bias in one.biases if bias not in codebooks and tensor_at(module, bias) is not None]
            if free and codebooks.keys() & set(one.weights):
                self.biases[one] = free[0]

    def changes(self, twin: nn.Module, read: Callable[[], Iterable[Seen]], how: How) -> Iterator[Change]:
        """Changes that make the layer compute what the original does; each may be made before the next is asked for.

        Args:
            twin: the module in the original.
            read: gives what both modules see, call by call, anew whenever it is called.
            how: it is done.
        """
        moved: list[list[list[Tensor]]] = []
        for stage in self._stages:
            last = stage is self._stages[-1]
            kept = [] if last else list(read())
            read = read if last else partial(iter, kept)
            known: list[Products] = []
            for _ in range(1 + (stage.again and how.rounds)):
                change, *figures = self._change(stage, self._both(stage, twin, read(), known), twin, how)
                moved.append(figures)
                yield change
            if not last:
                kept = [(stage.after(twin, wanted), stage.after(self._module, had)) for wanted, had in kept]
                read = partial(iter, kept)
        if shifts := [one for found, _ in moved for one in found]:
            square = torch.cat(shifts).square().mean()
            usual = torch.cat([one for _, found in moved for one in found]).mean()
            self.moved = float((square / usual).sqrt()) if usual > 0 else 0.0  # of one input there is no deviation

    def _both(
        self, stage: Stage, twin: nn.Module, seen: Iterable[Seen], known: list[Products]
    ) -> Iterator[tuple[Products, Products]]:
        """What the weights of both give; that of the original is computed once where it is needed again and again."""
        for number, (wanted, had) in enumerate(seen):
            theirs = known[number] if number < len(known) else stage.products(twin, wanted)
            if stage.again and wanted is not had and number == len(known):
                known.append(theirs)
            yield theirs, stage.products(self._module, had)

    def _change(
        self, stage: Stage, both: Iterable[tuple[Products, Products]], twin: nn.Module, how: How
    ) -> tuple[Change, list[Tensor], list[Tensor]]:
        """One change of a stage, told by one reading: the shifts are those of what is scaled. Beside it the shifts, and
        the variances of the original's sums."""
        parts = {(number, name): Pair() for number, name in self._scalable(stage, twin) if how.scales}
        sums = {number: Pair(how.relative) for number, one in enumerate(stage.sums) if one in self.biases}
        if stage.biased and not how.relative:  # a sum that is one product
            sums |= {number: pair for (number, _), pair in parts.items() if number in sums}
        for theirs, ours in both if parts or sums else ():
            for (number, name), pair in parts.items():
                pair.add(theirs[number][name], ours[number][name])
            for number, pair in sums.items():
                if pair not in parts.values():
                    one = stage.sums[number]
                    pair.add(_total(twin, stage, one, theirs[number]), _total(self._module, stage, one, ours[number]))
        factors, made = self._factors(parts, twin)
        shifts: dict[Sum, Tensor] = {}
        for number, pair in sums.items():
            one = stage.sums[number]
            shifts[one] = pair.shift(how.relative and not stage.again)
            for key in (key for key in factors if key[0] == number):
                bias = sum(_biases(self._module, one)) if stage.biased else 0
                shifts[one] = shifts[one] - (factors[key] - 1) * (parts[key].found - bias)

        def change() -> None:
            for centroids, scaled in made:
                centroids.copy_(scaled)
            for one, shift in shifts.items():
                bias = tensor_at(self._module, self.biases[one])
                assert bias is not None
                bias[one.channels].add_(shift.to(bias))

        return torch.no_grad()(change), [*shifts.values()], [pair.variances()[0] for pair in sums.values()]

    def _scalable(self, stage: Stage, twin: nn.Module) -> Iterator[tuple[int, str]]:
        """The products that a factor of the centroids scales, each by the number of its sum and the name of its
        weight."""
        for number, one in enumerate(stage.sums):
            yield from ((number, name) for name in one.weights if name in self._alone and stage.linear(twin))

    def _factors(
        self, parts: Mapping[tuple[int, str], Pair], twin: nn.Module
    ) -> tuple[dict[tuple[int, str], Tensor], list[tuple[Tensor, Tensor]]]:
        """By what each channel of the products is multiplied, float64, and the centroids with what they become."""
        factors: dict[tuple[int, str], Tensor] = {}
        made: list[tuple[Tensor, Tensor]] = []
        for name in dict.fromkeys(name for _, name in parts):
            keys = [key for key in parts if key[1] == name]  # sums are in the order of the channels of each weight
            variances = [parts[key].variances() for key in keys]
            found = _scaled(self._alone[name], torch.cat(variances, 1), tensor_at(twin, name))
            if found is not None:
                factor, *change = found
                made.append((change[0], change[1]))
                factors |= dict(zip(keys, factor.split([v.shape[1] for v in variances]), strict=True))
        return factors, made


def _total(module: nn.Module, stage: Stage, one: Sum, products: dict[str, Tensor]) -> Tensor:
    """A sum of a module, ``(channels, n)``, from what its weights give."""
    first, *others = products.values()
    others += [] if stage.biased else [bias[:, None].float() for bias in _biases(module, one)]
    return sum(others, start=first)


def _biases(module: nn.Module, one: Sum) -> list[Tensor]:
    """Those that are added to a sum, ``(channels,)`` each."""
    found = (tensor_at(module, name) for name in one.biases)
    return [bias[one.channels] for bias in found if bias is not None]


def places(student: nn.Module) -> dict[nn.Module, Place]:
    """The modules with compressed weights whose sums are known."""
    held: dict[nn.Module, dict[str, Held]] = {}
    uses = Counter(id(one.weight) for one in attached(student))
    names = {module: name for name, module in student.named_modules()}
    for one in attached(student):
        held.setdefault(one.module, {})[one.leaf] = one.weight, one.centroids
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


def _alone(held: dict[str, Held], uses: Counter[int]) -> dict[str, Held]:
    return {name: one for name, one in held.items() if uses[id(one[0])] == 1 and one[0].layout.run is None}


@torch.no_grad()
def _scaled(held: Held, variances: Tensor, original: Tensor | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """By what each channel of the products is multiplied, the centroids, and what they become; ``None`` where zeros
    would be nearer to the original weights then."""
    weight, centroids = held
    owners = weight.layout.owners(centroids.device)
    owners = owners.repeat(variances.shape[1] // len(owners))  # groups of transposed convolutions share an axis
    factor = ratio(variances, owners)
    scaled = centroids * factor.view(-1, *[1] * (centroids.dim() - 1)).to(centroids)
    if original is not None and (weight(scaled) - original).square().sum() > original.square().sum():
        return None
    return factor[owners], centroids, scaled
