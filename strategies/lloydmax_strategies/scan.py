"""The passes over a large weight: to 65,536 keys and their masses, and from centroids to codes and exact means.

The keys of 16-bit floats are their bit patterns, so a key is a value. A float32 value x gets the key
``trunc(32767 u)`` with ``u = (x - s) / (c + |x - s|)``: fine and even near s, coarse far away, as the best
quantizer is for a density with heavy tails (Panter & Dite 1951), and without a limit on the range.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from lloydmax.codebook import code_dtype
from numpy.typing import NDArray
from torch import Tensor

from lloydmax_strategies.partition import Floats, Ints
from lloydmax_strategies.rows import thresholds

KEYS = 1 << 16
_STEPS = 32767
_FUZZ = 1 / 32  # of an interval: more than float32 rounding can carry a value past its edge
_SAMPLE = 1 << 13
_MAP_CHUNK, _COUNT_CHUNK, _CODE_CHUNK = 1 << 14, 1 << 18, 1 << 16
_KEEP = 8  # at most one in so many weights is kept aside as too close to a threshold
_PASSES, _SETTLE = 3, 50


class Scan:
    """A flat weight on the CPU and the keys of its values.

    Attributes:
        low, high: ``(65536,)`` float64, ascending, the interval of values of every key; equal for 16-bit floats.
        mass: ``(65536,)`` float64, number of weights, or summed importance, of every key.
        size: number of weights.
    """

    def __init__(self, weight: Tensor, importance: Tensor | None = None) -> None:
        self.dtype, self.size = weight.dtype, weight.numel()
        self._importance = None if importance is None else importance.float().numpy()
        if weight.dtype == torch.float32:
            self._values = weight.numpy()
            self._keys = np.zeros(self.size, np.uint16)
            self.low, self.high = self._map()
            self._order = np.roll(np.arange(KEYS), KEYS // 2)
        else:
            patterns = torch.arange(KEYS, dtype=torch.int32).to(torch.int16).view(weight.dtype)
            patterns = patterns.double().nan_to_num_(0, 0, 0).numpy()
            self._order = np.argsort(patterns, kind="stable")
            self.low = self.high = patterns[self._order]
            self._keys = weight.view(torch.int16).numpy().view(np.uint16)
        mass = np.zeros(KEYS)
        for part in _chunks(self.size, _COUNT_CHUNK):
            weights = None if self._importance is None else self._importance[part]
            mass += np.bincount(self._keys[part], weights=weights, minlength=KEYS)
        self.mass = mass[self._order]

    @property
    def exact(self) -> bool:
        """Whether a key is a value."""
        return self.dtype != torch.float32

    def _map(self) -> tuple[Floats, Floats]:
        """Fill the keys; the interval of every key."""
        values, keys = self._values, self._keys.view(np.int16)
        centre, scale = _centre_and_scale(values)
        shifted, size = np.empty((2, min(self.size, _MAP_CHUNK)), np.float32)
        top = 0.0
        with np.errstate(all="ignore"):
            for part in _chunks(self.size, _MAP_CHUNK):
                chunk = values[part]
                u, a = shifted[: len(chunk)], size[: len(chunk)]
                np.subtract(chunk, centre, out=u)
                np.abs(u, out=a)
                top = max(top, float(a.max()))
                a += scale
                u /= a
                u *= np.float32(_STEPS)
                keys[part] = u
        if not 1e-30 < top < 1e37:
            self._keys.fill(0)
            low, high = np.full((2, KEYS), float(values.min()))
            high[KEYS // 2 :] = low[KEYS // 2 + 1 :] = float(values.max())
            return low, high
        key = np.arange(-KEYS // 2, KEYS // 2, dtype=np.float64)
        low, high = (key - (key <= 0)) / _STEPS, (key + (key >= 0)) / _STEPS
        for edge in (low, high):
            np.clip(edge, -1 + 1e-12, 1 - 1e-12, out=edge)
            edge *= float(scale) / (1 - np.abs(edge))
            np.clip(edge, -top, top, out=edge)
            edge += float(centre)
        return low, high

    def select(self, chosen: NDArray[np.bool_]) -> tuple[Floats, Floats | None]:
        """Values, and importance if there is any, of all weights whose key is chosen (a ``(65536,)`` mask)."""
        found: list[NDArray[np.float32]] = []
        masses: list[NDArray[np.float32]] = []
        table = self._table(chosen)
        for part in _chunks(self.size, _CODE_CHUNK):
            at = np.flatnonzero(table.take(self._keys[part], mode="wrap"))
            found.append(self._values[part][at])
            if self._importance is not None:
                masses.append(self._importance[part][at])
        return np.concatenate(found), np.concatenate(masses).astype(np.float64) if masses else None

    def encode(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codes, and centroids that are the means of their members.

        The codes are always the nearest of the returned centroids. The centroids are the means of their members,
        rounded to their dtype; should that not settle in a few passes, the last ones are means of almost the
        same members.

        Args:
            centroids: ``(k,)``, ascending, in the dtype of the weight; close to the final ones.

        Returns:
            Centroids ``(k,)`` and flat codes.
        """
        for _ in range(_PASSES):
            limits = thresholds(centroids).numpy()
            coded, unsure = self._code(limits, len(centroids)), self._unsure(limits)
            for _ in range(_SETTLE):
                wanted = coded.means(centroids)
                limits = thresholds(wanted).numpy()
                if torch.equal(wanted, centroids) or not (coded.complete and _within(self._unsure(limits), unsure)):
                    break
                coded.move(limits)
                centroids = wanted
            if torch.equal(wanted, centroids):
                break
            settled, centroids = centroids, wanted
        else:
            centroids = settled
        return centroids, torch.from_numpy(coded.codes)

    def _table(self, ordered: NDArray) -> NDArray:
        """A table by ascending value, as a table by key."""
        table = np.empty_like(ordered)
        table[self._order] = ordered
        return table

    def _unsure(self, limits: NDArray[np.float32]) -> tuple[Ints, Ints]:
        """First and one past the last key, by value, that holds values on both sides of each threshold."""
        fuzz = _FUZZ * (self.high - self.low)
        first = np.searchsorted(self.high + fuzz, limits, side="right")
        return first, np.searchsorted(self.low - fuzz, limits, side="right")

    def _code(self, limits: NDArray[np.float32], k: int) -> _Coded:
        first, stop = self._unsure(limits)
        code, most = (np.cumsum(np.bincount(at, minlength=KEYS + 1))[:KEYS] for at in (stop, first))
        sure = code == most
        dtype = {torch.uint8: np.uint8, torch.int16: np.int16, torch.int32: np.int32}[code_dtype(k)]
        mark = (k if k < 256 else int(np.bincount(code, self.mass, k).argmin())) if dtype is np.uint8 else -1
        if not self.exact:
            sure &= code != mark
        table = self._table(np.where(sure, code, mark).astype(dtype))
        coded = _Coded(np.empty(self.size, dtype), np.bincount(code[sure], self.mass[sure], k), np.zeros(k))
        if self.exact:
            coded.moment += np.bincount(code, self.mass * self.low, k)
        lanes = max(1, 256 // k) if dtype is np.uint8 else 1
        lane = (np.arange(_CODE_CHUNK) % lanes * k).astype(dtype)
        for part in _chunks(self.size, _CODE_CHUNK):
            codes = coded.codes[part]
            table.take(self._keys[part], out=codes, mode="wrap")
            if self.exact:
                continue
            values = self._values[part]
            importance = None if self._importance is None else self._importance[part]
            at = np.flatnonzero(codes == mark)
            if len(at):
                codes[at] = coded.keep(at, part.start, values[at], None if importance is None else importance[at], limits)
            slot = codes + lane[: len(codes)] if lanes > 1 else codes
            weights = values if importance is None else values.astype(np.float64) * importance
            coded.moment += np.bincount(slot, weights, lanes * k).reshape(lanes, k).sum(axis=0)
        return coded


class _Coded:
    """Codes of a pass, mass and moment of every centroid, and the weights that lie close to a threshold."""

    def __init__(self, codes: NDArray, mass: Floats, moment: Floats) -> None:
        self.codes, self.mass, self.moment = codes, mass, moment
        self.complete = True
        self._kept = 0
        self._near: list[tuple[Ints, NDArray[np.float32], Floats | None]] = []

    def keep(self, at: Ints, start: int, values: NDArray, mass: NDArray | None, limits: NDArray) -> Ints:
        """Codes of weights close to a threshold; they are counted and set aside, unless they are too many."""
        codes = np.searchsorted(limits, values)
        self.mass += np.bincount(codes, mass, len(self.mass))
        self._kept += len(at)
        self.complete = self._kept <= len(self.codes) // _KEEP
        if self.complete:
            self._near.append((at + start, values, mass))
        else:
            self._near.clear()
        return codes

    def means(self, otherwise: Tensor) -> Tensor:
        """Mean of the members of every centroid, in the dtype of ``otherwise``, which serves where there are none."""
        filled = self.mass > 0
        mean = np.where(filled, self.moment / np.where(filled, self.mass, 1), otherwise.double().numpy())
        return torch.from_numpy(mean).to(otherwise.dtype)

    def move(self, limits: NDArray[np.float32]) -> None:
        """Change the codes, mass and moment of the weights that new thresholds give to another centroid."""
        k = len(self.mass)
        for at, values, mass in self._near:
            old, new = self.codes[at], np.searchsorted(limits, values)
            moved = np.flatnonzero(old != new)
            weight = np.ones(len(moved)) if mass is None else mass[moved].astype(np.float64)
            for codes, sign in ((old[moved], -1), (new[moved], 1)):
                self.mass += sign * np.bincount(codes, weight, k)
                self.moment += sign * np.bincount(codes, weight * values[moved], k)
            self.codes[at[moved]] = new[moved]


def _chunks(size: int, length: int) -> Iterator[slice]:
    return (slice(start, min(size, start + length)) for start in range(0, size, length))


def _within(inner: tuple[Ints, Ints], outer: tuple[Ints, Ints]) -> bool:
    return bool((inner[0] >= outer[0]).all() and (inner[1] <= outer[1]).all())


def _centre_and_scale(values: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """The centre s, the median of a sample, and the scale c with the least mean squared width of the intervals."""
    sample = values[:: max(1, len(values) // _SAMPLE) | 1]
    centre = np.median(sample).astype(np.float32)
    distance = np.abs(sample - centre.astype(np.float64))
    if not distance.any():
        distance = np.abs(np.array([values.min(), values.max()], dtype=np.float64) - centre)
    first, second, third, fourth = (np.mean(distance**power) for power in (1, 2, 3, 4))
    scales = max(first, 1e-30) * np.exp2(np.linspace(-8, 16, 97))
    width = scales**2 + 4 * scales * first + 6 * second + 4 * third / scales + fourth / scales**2
    return centre, np.float32(scales[width.argmin()])
