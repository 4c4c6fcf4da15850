"""Means and deviations along one axis of an input: what a few examples tell of others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_PLACES = 1024
"""Along an axis that has a profile."""
_LEAST = 0.5
"""How much likelier values become by it, in nats for each of them: less is chance, or not worth its numbers."""
_MANY = 8
"""Values at a place from which on it has a deviation of its own."""
_FLAT = 0.01
"""Share of the whole deviation that each place has at least: examples show few of all values."""
_FINE = 30
"""Steps in a deviation, at least."""
_CHANCE = 4.0
"""Standard errors that are chance."""


@dataclass(frozen=True)
class Profile:
    """Of the values of an input.

    Attributes:
        means: of the places along the last axis of a sample that is so long.
        deviations: the same, or a single one for all places.
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def along(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Means and deviations, to be broadcast to samples of this shape."""
        axis = max(place for place, length in enumerate(shape) if length == len(self.means))
        behind = (1,) * (len(shape) - axis - 1)
        means, deviations = (torch.tensor(part).reshape(-1, *behind) for part in (self.means, self.deviations))
        return means, deviations


def only_shapes(values: Tensor) -> bool:
    """Whether values are such as ``torch.zeros``, ``ones``, ``rand`` or ``randn`` give, which only show a shape."""
    values = values.double().flatten()
    deviation, mean = (float(one) for one in torch.std_mean(values, correction=0))
    if not deviation > 0:
        return True
    near = _CHANCE / math.sqrt(len(values))
    between = float(values.min()) >= 0 and float(values.max()) <= 1
    kinds = [(0.0, 1.0), *([(0.5, math.sqrt(1 / 12))] if between else [])]
    usual = any(max(abs(mean - m), abs(deviation - d)) < near * d for m, d in kinds)
    neighbours = float(((values[1:] - mean) * (values[:-1] - mean)).mean()) / deviation**2
    return usual and abs(neighbours) < near


def profile_of(values: Tensor, most: int) -> Profile | None:
    """The profile along the shortest axis where it tells enough, for along a long one lies what one example is of;
    ``None``: along none.

    Args:
        values: of all samples ``(N, *shape)``.
        most: places that it may have.
    """
    shape, whole = tuple(values.shape[1:]), float(values.double().var(correction=0))
    places = {length: axis for axis, length in enumerate(shape) if 1 < length <= min(most, MOST_PLACES)}
    for length, axis in sorted(places.items()):
        rows = values.movedim(axis + 1, 0).reshape(length, -1).double()
        count = rows.shape[1]
        if count < 2 or not whole > 0:
            continue
        variances = rows.var(1) if count >= _MANY else rows.var(1).mean(0, keepdim=True)
        variances = variances.clamp(min=_FLAT**2 * whole)
        if math.log(whole) - float(variances.log().mean()) > _LEAST:
            return _written(rows.mean(1), (variances * (1 + 1 / count)).sqrt(), math.sqrt(whole))
    return None


def _written(means: Tensor, deviations: Tensor, whole: float) -> Profile:
    """With as many digits as matter: a recipe, and the file, hold them."""
    digits = -math.floor(math.log10(whole / _FINE))
    short = tuple(float(f"{deviation:.2g}") for deviation in deviations.tolist())
    return Profile(tuple(round(mean, digits) + 0.0 for mean in means.tolist()), short)
