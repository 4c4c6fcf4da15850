"""The plan of a family at which the file has the size that the recipe's ``bits`` name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lloydmax.format import coding, packing
from lloydmax.format.sizes import Uncompressed, predicted_size
from lloydmax.network.parameters import weight_of
from lloydmax.network.private import own
from lloydmax.plan.plan import Plan, PlannedParameter

if TYPE_CHECKING:
    from lloydmax.codebook.codebook import Codebook

ROUNDS = 5
"""Sets of codebooks that are fitted at most, unless none of them fits."""
_MORE = 12
"""The same where none of them fits."""
_CLOSE = (2e-3, 4e-3)
"""Shares of the size that may be missing: recovery can make the file a little larger."""
_NEARLY = (-0.02, 0.01)
"""The same of files that are only compared, as if they had the size."""
_FULL, _FINER, _HALVINGS = 0.98, 2.0, 5
"""Share of the size below which single parameters get more bits, how many at most, and how often that is halved."""

_LOST = 0.2
"""Of what contexts spare, what they spare no longer in codes that recovery chooses, at most as a rule."""
_LARGE = 1 << 20
"""Codes of a parameter beyond which it is told once whether matches make their stream shorter."""
_ALIKE = 1.1
"""Times its entropy that a stream of one parameter may have to be as much longer than it as another."""

Fitted = Callable[[Plan], "dict[str, Codebook]"]


@dataclass(frozen=True)
class Family:
    """Plans that differ in how many bits their codes take.

    Attributes:
        name: for people.
        at: the plan whose codes and codebooks take nearly so many bits in all.
        finer: a parameter of such a plan with so many bits a weight more, nearly.
        priced: whether all bits have a price.
    """

    name: str
    at: Callable[[float], Plan]
    finer: Callable[[PlannedParameter, float], PlannedParameter]
    priced: bool = True


@dataclass(frozen=True)
class Sized:
    """A plan, its codebooks, and the bytes of the file.

    Attributes:
        wanted: bits that codes and codebooks were given for that.
    """

    plan: Plan
    codebooks: dict[str, Codebook]
    size: int
    wanted: float


class Sizing:
    """Finds plans whose file has a size; what single codes take is remembered.

    Args:
        model: the original.
        plan: with that size.
        fitted: fits the codebooks of a plan.
        changed: whether recovery changes codes.
    """

    def __init__(self, model: nn.Module, plan: Plan, fitted: Fitted, changed: bool = False) -> None:
        self.model = _varied(model, plan) if plan.recipe.recover else model
        self.budget, self.fitted = plan.predicted_bytes, fitted
        self._uncompressed: dict[str, Uncompressed] = {}
        self._streams: dict[tuple[str, str], int] = {}
        self._plain: set[str] = set()  # where matches do not pay
        self._coding, self._changed = plan.recipe.storage.codes, changed
        self._together = sum(p.layout.codes for p in plan.parameters.values())
        self._measured: dict[tuple[str, str], tuple[float, float]] = {}  # entropy in bytes, and bytes of the stream

    @property
    def most(self) -> float:
        """Bytes that are aimed at, at most."""
        return (1 - _CLOSE[0]) * self.budget

    def closest(self, family: Family, wanted: float, nearly: bool = False) -> Sized:
        """The largest file found that is not too large; where there is none, the smallest.

        Args:
            family: of plans.
            wanted: bits of codes and codebooks to begin with.
            nearly: whether a size not far away will do.
        """
        least, most = _NEARLY if nearly else _CLOSE
        best: Sized | None = None
        few, many = 0.0, math.inf
        for turn in range(_MORE):
            if turn >= ROUNDS and best is not None and best.size <= self.budget:
                break
            tried = self._sized(family.at(wanted), wanted)
            best = tried if best is None or self._rank(tried) < self._rank(best) else best
            left = self.budget - tried.size
            if least <= left / self.budget <= most:
                break
            short = left - sum(_CLOSE) / 2 * self.budget
            few, many = (max(few, wanted), many) if short > 0 else (few, min(many, wanted))
            wanted += 8 * short
            if not few < wanted < many:
                wanted = (few + many) / 2 if many < math.inf else 2 * few
        assert best is not None
        return best

    def _rank(self, sized: Sized) -> tuple[bool, bool, int]:
        """Less is better: files that are not too large come first, of them the largest."""
        fits = sized.size <= self.budget
        return not fits, sized.size > self.most, -sized.size if fits else sized.size

    def filled(self, family: Family, sized: Sized) -> Sized:
        """The same with more bits for single parameters where much of the size is missing: those that have next to none
        come first, then the largest."""
        starved = {name for name, held in sized.codebooks.items() if held.k == 1}
        for p in sorted(sized.plan.parameters.values(), key=lambda p: (p.name not in starved, -p.weights)):
            low, high = 0.0, _FINER
            for _ in range(_HALVINGS if sized.size < _FULL * self.budget else 0):
                middle = (low + high) / 2
                parameters = dict(sized.plan.parameters) | {p.name: family.finer(p, middle)}
                tried = self._sized(replace(sized.plan, parameters=parameters), sized.wanted)
                if sized.size < tried.size <= self.most:
                    sized = tried
                low, high = (middle, high) if tried.size <= self.most else (low, middle)
        return sized

    def _sized(self, plan: Plan, wanted: float) -> Sized:
        codebooks = self.fitted(plan)
        return Sized(plan, codebooks, self._file_bytes(plan, codebooks), wanted)

    def _file_bytes(self, plan: Plan, codebooks: Mapping[str, Codebook]) -> int:
        streams = {name: self._stream(plan.parameters[name], held) for name, held in codebooks.items()}
        stored = {name: p.with_centroids(codebooks[name].k).record() for name, p in plan.parameters.items()}
        return predicted_size(self.model, stored, plan.recipe.data(), plan.recipe.storage, streams, self._uncompressed)

    def _stream(self, p: PlannedParameter, codebook: Codebook) -> int:
        key = p.name, f"{p.quantizer} {p.options.model_dump_json()}"
        if key not in self._streams:
            codes, bits = codebook.codes, codebook.bits
            if self._coding == "arithmetic":
                size = self._arithmetic(p, codebook)
            elif p.name in self._plain:
                size = packing.plain_bytes(codes, bits)
            else:
                size = len(packing.entropy_encode(codes, bits))
                if codes.numel() > _LARGE and size == packing.plain_bytes(codes, bits):
                    self._plain.add(p.name)
            all_codes = p.layout.codes  # the codebook may be that of some channels
            self._streams[key] = size if codes.numel() == all_codes else round(size * all_codes / codes.numel())
        return self._streams[key]

    def _arithmetic(self, p: PlannedParameter, codebook: Codebook) -> int:
        """Bytes of a stream that takes long to make: made for one number of bits, and for others by the entropy. Where
        recovery changes codes, contexts spare less: as in codes of weights that are as far off as these codes,
        but at least four fifths."""
        kind, entropy = (p.name, p.granularity), _entropy(codebook)
        known, size = self._measured.get(kind, (0.0, 0.0))
        if not known / _ALIKE <= entropy <= known * _ALIKE:
            known, size = entropy, float(self._encoded(codebook))
            if self._changed:
                moved = _moved(codebook, weight_of(self.model, p.name).detach().float())
                lost = self._encoded(moved) * entropy / _entropy(moved) - size
                size += max(0.0, min(lost, _LOST * (entropy - size)))
            self._measured[kind] = known, size
        return round(size * entropy / known)

    def _encoded(self, codebook: Codebook) -> int:
        return len(coding.encode(codebook.codes, codebook.bits, self._coding, self._together))


def _moved(codebook: Codebook, weight: Tensor) -> Codebook:
    """The codes of a weight that is as far off, at random, as those of a codebook."""
    given, squares = weight.reshape(codebook.shape), 0.0
    for rows, part in codebook.parts():
        squares += float((part.dequantize().float() - given[rows]).square().sum())
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
    return codebook.reassigned(noise.mul_(math.sqrt(squares / weight.numel())).add_(weight))


def _entropy(codebook: Codebook) -> float:
    """Of all codes, in bytes, and one more."""
    counts = torch.bincount(codebook.codes.reshape(-1).int()).double()
    return float(torch.special.entr(counts / counts.sum()).sum() / math.log(2) / 8 * codebook.codes.numel()) + 1


def _varied(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy in which no parameter in floats is constant: what recovery changes takes bytes, of batch norms, to which
    new statistics go, in all channels. What gets codebooks it shares with the model."""
    varied = own(model, plan.parameters.keys() & dict(model.named_parameters()).keys())
    with torch.no_grad():
        for name, parameter in varied.named_parameters():
            if name not in plan.parameters and parameter.numel() > 1 and bool((parameter == parameter.max()).all()):
                if getattr(varied.get_submodule(name.rpartition(".")[0]), "running_mean", None) is None:
                    parameter[(0,) * parameter.dim()] += 1
                else:
                    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
                    parameter.add_(noise.to(parameter))
    return varied
