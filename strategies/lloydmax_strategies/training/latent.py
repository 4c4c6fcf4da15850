"""Codes that learn: behind every code stands a latent weight, which takes the gradient of the decoded one.

The straight-through estimator of Bengio et al. (2013) and Courbariaux et al. (2015): the network computes with the
decoded weight, its gradient moves the latent weight, and after each step of the optimizer the latent weight chooses
its code again. Where bits have a price (Chou et al. 1989), it counts in that choice, and follows the entropy of all
codes, so that what the file takes stays what it was.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from lloydmax import Codebook, RecoveryError
from lloydmax.extend import CodebookWeight, attached
from torch import Tensor, nn

from lloydmax_strategies.clustering.gain import suited

_GAIN = 1.0
"""How much of an entropy's excess the price makes up for: at high rates a bit less costs four times the error."""
_LEAST = 0.01
"""Least rms in whose units a channel counts, as a share of the whole weight's."""


class StraightThrough(nn.Module):
    """The second parametrization of a weight: identity, whose gradient goes to the latent weight, too.

    Args:
        weight: the first latent weight, in the shape of the decoded one; float32.
        holder: the first parametrization, whose codes stay as they are. Its output channels each count in units of
            their own rms, at least a hundredth of the whole weight's.
        centroids: that it decodes.
    """

    option: ClassVar[str] = "learn"
    vectors: ClassVar[bool] = True
    latent: nn.Parameter

    def __init__(self, weight: Tensor, holder: CodebookWeight, centroids: Tensor) -> None:
        super().__init__()
        self.held = holder, centroids  # of another module: not to be registered
        whole = float(weight.square().mean().sqrt().clamp(min=1e-12))
        layout = holder.layout
        others = [dim for dim in range(weight.dim()) if dim != layout.axis]
        if layout.matrices > 1:
            each = layout.spread(layout.channels_first(weight).flatten(1).square().mean(1).sqrt())
        else:
            each = weight.square().mean(others, keepdim=True).sqrt() if others else torch.tensor(whole)
        self.scale = each.clamp(min=_LEAST * whole).to(weight.device)
        self.latent = nn.Parameter(weight / self.scale)
        self.free = holder.layout.free(weight) if holder.zeros else None

    @property
    def weight(self) -> Tensor:
        """The latent weight, in units of the decoded one."""
        return self.latent * self.scale

    @property
    def state(self) -> list[Tensor]:
        """What changes beside the latent weight: codes, and the numbers of members."""
        return [self.held[0].codes, self.held[0].counts]

    def forward(self, decoded: Tensor) -> Tensor:
        """The decoded weight, as it is."""
        if not torch.is_grad_enabled():
            return decoded
        moved = (self.latent - self.latent.detach()) * self.scale
        return decoded + (moved if self.free is None else moved * self.free).to(decoded.dtype)

    def begin_step(self, progress: float) -> None:
        """Called before each step, with the share of the steps that are done."""

    def chosen(self, codebook: Codebook) -> Codebook:
        """The codebook with the codes that the latent weight chooses now; no gradient."""
        return codebook.reassigned(self.weight)


@dataclass
class _Learned:
    holder: CodebookWeight
    centroids: Tensor
    through: StraightThrough
    bits: float = 0.0


class Latents:
    """The latent weights of the codebooks of a student whose centroids learn.

    Args:
        student: its codebook parametrizations get a second one, until :meth:`remove`.
        original: holds the weights from before the fit under the same names, where the latent weights start that choose
            the codes that are there, see :func:`choosing`; ``None``: all start from the decoded ones.
        kind: of the second parametrization.

    Raises:
        RecoveryError: a trained codebook of vectors, which the kind cannot have.
    """

    def __init__(
        self, student: nn.Module, original: nn.Module | None, kind: type[StraightThrough] = StraightThrough
    ) -> None:
        weights = {} if original is None else dict(original.named_parameters())
        self._learned: dict[int, _Learned] = {}
        self._lists: list[nn.ModuleList] = []
        for name, module, leaf, holder, centroids in attached(student):
            if not centroids.requires_grad:
                continue
            block = holder.layout.block
            if block > 1 and not kind.vectors:
                raise RecoveryError(
                    f"'codes: {kind.option}' needs codebooks of single weights, and {name} has blocks of {block}; "
                    f"write 'codes: learn' or 'codes: fixed', or give {name} a rule without 'block'"
                )
            if id(holder) not in self._learned:
                found = weights.get(name)
                fits = found is not None and tuple(found.shape) == holder.layout.shape
                held = holder.holding(centroids)
                start = held.dequantize()
                if found is not None and fits:
                    start = choosing(held, suited(held, found.to(centroids.device)))
                through = kind(start.detach().float(), holder, centroids)
                self._learned[id(holder)] = _Learned(holder, centroids, through)
            kept: nn.ModuleList = module.parametrizations[leaf]  # type: ignore[index, assignment]
            kept.append(self._learned[id(holder)].through)
            self._lists.append(kept)
        if not self._learned:
            warnings.warn(
                f"'codes: {kind.option}' changes nothing: no codebook of the student is trained; write "
                "'trainable: [codebooks]' or 'trainable: [all]'",
                stacklevel=2,
            )
        self.multiplier = 1.0
        priced = [each for each in self._learned.values() if each.holder.price]
        for each in priced:
            each.bits = _bits(each.holder.holding(each.centroids).member_counts())
        self._weights = sum(each.holder.codes.numel() for each in priced)
        self._wanted = self.bits()
        self._first = [each.holder.codes.clone() for each in self._learned.values()]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The latent weights, in units of the rms of each output channel."""
        return [each.through.latent for each in self._learned.values()]

    @property
    def state(self) -> list[Tensor]:
        """What changes beside the latent weights."""
        return [tensor for each in self._learned.values() for tensor in each.through.state]

    @property
    def rate(self) -> tuple[float, list[float]]:
        """By what the price of a bit is multiplied, and the bits of the codes of each weight."""
        return self.multiplier, [each.bits for each in self._learned.values()]

    @rate.setter
    def rate(self, known: tuple[float, list[float]]) -> None:
        self.multiplier, bits = known
        for each, told in zip(self._learned.values(), bits, strict=True):
            each.bits = told

    def begin_step(self, progress: float) -> None:
        """Called before each step, with the share of the steps that are done."""
        for each in self._learned.values():
            each.through.begin_step(progress)

    @torch.no_grad()
    def choose(self) -> None:
        """Let every latent weight choose its code again."""
        for each in self._learned.values():
            holder, codebook = each.holder, each.holder.holding(each.centroids)
            chosen = each.through.chosen(replace(codebook, price=codebook.price * self.multiplier))
            members = holder.recode(chosen)
            each.bits = _bits(members) if holder.price else 0.0
        if self._weights:
            self.multiplier *= 4 ** (_GAIN * (self.bits() - self._wanted))

    def bits(self) -> float:
        """Entropy of all codes whose bits have a price, in bits a weight."""
        return sum(each.bits for each in self._learned.values()) / max(self._weights, 1)

    def measured(self) -> dict[str, float]:
        """The share of the codes that are not what they were at first, and the entropy, where bits have a price."""
        pairs = [(each.holder.codes, first) for each, first in zip(self._learned.values(), self._first, strict=True)]
        changed = sum(int((now != first).sum()) for now, first in pairs)
        told = {"codes_changed": changed / max(sum(first.numel() for _, first in pairs), 1)}
        return told | ({"code_bits": self.bits()} if self._weights else {})

    def remove(self) -> None:
        """Take the second parametrizations away; the codes stay as they were chosen last."""
        for held in self._lists:
            del held[len(held) - 1]
        self._lists = []


def choosing(codebook: Codebook, weight: Tensor) -> Tensor:
    """The weight, with the decoded value wherever it would choose another centroid than its code has: codes that make
    up for each other's errors (``reconstruct``) are not the nearest ones, and would be lost in the first step.

    Args:
        codebook: of the weight.
        weight: float32, in its shape.
    """
    decoded = codebook.dequantize()
    return torch.where(codebook.reassigned(weight).dequantize() == decoded, weight, decoded.to(weight.dtype))


def _bits(counts: Tensor) -> float:
    """Entropy of so many codes, in bits altogether."""
    counts = counts.reshape(-1, counts.shape[-1]).sum(0)
    total = counts.sum().double()
    return float(torch.special.entr(counts.double() / total).sum() * total) / math.log(2)
