"""What one number of centroids costs and harms in one unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Units = Literal["parameters", "rules"]


IN_NATS = "KL to the original (nats)"


@dataclass(frozen=True)
class Row:
    """One unit (a parameter, or all of a rule) with one number of centroids, everything else as it was.

    Attributes:
        unit: name of the parameter, or the rule's layers.
        layer: number of the parameter's layer, if it has one.
        weights: in the unit.
        centroids: of one codebook.
        bits: of one weight, where codes have a fixed width.
        bytes: codes and codebooks as stored.
        kl: mean KL divergence from the teacher in nats; ``None`` where what counts is not one output that has, or may
            have, classes.
        agreement: share of decisions with the teacher's top-1; ``None`` likewise.
        snr: signal-to-noise ratio of the outputs in dB; infinite where they are the same.
        measured: whether it was measured; else estimated (see :mod:`lloydmax.choosing.damage`).
        apart: how far apart in what the outputs tell, see :func:`lloydmax.teacher.agreement.differences`; of classes
            the KL divergence. ``None`` in what earlier versions wrote.
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
    apart: float | None = None

    @property
    def damage(self) -> float:
        """What a search adds up: how far apart in what the outputs tell."""
        known = (value for value in (self.apart, self.kl) if value is not None)
        return next(known, 10 ** (-self.snr / 10))


def meaning(rows: Sequence[Row]) -> str:
    """What the damage of these rows is, for the axis of a picture."""
    if all(row.kl is not None and row.damage == row.kl for row in rows):
        return IN_NATS
    old = any(row.apart is None for row in rows)
    return "noise over signal of the outputs" if old else "how far the outputs are apart, by their own spread"
