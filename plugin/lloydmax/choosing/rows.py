"""What one number of centroids costs and harms in one unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Units = Literal["parameters", "rules"]


@dataclass(frozen=True)
class Row:
    """One unit (a parameter, or all of a rule) with one number of centroids, everything else as it was.

    Attributes:
        unit: name of the parameter, or the rule's layers.
        layer: number of the parameter's layer, if it has one.
        weights: in the unit.
        centroids: of one codebook.
        bits: fixed-width code bits of one weight.
        bytes: codes and codebooks as stored.
        kl: mean KL divergence from the teacher in nats; ``None`` where the outputs are not classes.
        agreement: share of decisions with the teacher's top-1; ``None`` likewise.
        snr: signal-to-noise ratio of the outputs in dB; infinite where they are the same.
        measured: whether it was measured; else estimated (see :mod:`lloydmax.choosing.damage`).
    """

    unit: str
    layer: int | None
    weights: int
    centroids: int
    bits: float
    bytes: int
    kl: float | None
    agreement: float | None
    snr: float
    measured: bool

    @property
    def damage(self) -> float:
        """The KL divergence; without classes, the noise over the signal of the outputs."""
        return self.kl if self.kl is not None else 10 ** (-self.snr / 10)
