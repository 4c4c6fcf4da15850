"""The passes over a large weight: to 65,536 keys and their masses, and from centroids to codes and exact means.

The keys of 16-bit floats are their bit patterns, so a key is a value. A float32 value x gets the key
``trunc(32767 u)`` with ``u = (x - s) / (c + |x - s|)``: fine and even near s, coarse far away, as the best
quantizer is for a density with heavy tails (Panter & Dite 1951), and without a limit on the range.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from lloydmax.extend import code_dtype, native
from numpy.typing import NDArray
from torch import Tensor

from lloydmax_strategies.clustering.partition import Floats, Ints, total_of
from lloydmax_strategies.clustering.rows import thresholds

KEYS = 1 << 16  # a key has 16 bits
STEPS = 32767  # keys on each side of the centre
RANGE = 1e-30, 1e37  # of distances from the centre that float32 can compute with
_FUZZ = 1 / 32  # of an interval: more than float32 rounding can carry a value past its edge
MULTIPLES = np.exp2(np.linspace(-8, 16, 97))  # of the mean distance from the centre, of which one is the scale
SAMPLE = 1 << 13  # weights of which centre and scale are taken
# Weights at once in each kind of pass, so that its temporaries stay in the cache.
_MAP_CHUNK, _CODE_CHUNK = 1 << 15, 1 << 17
_COUNT_CHUNK = 1 << 20  # larger: there are 65,536 sums for each
_PASSES, _SETTLED = 3, 0.01  # passes at most; how far a centroid still moves, of the way to the next


class Scan:
    """A flat weight on the CPU and the keys of its values. All tables are of the keys that it has, by ascending value.

    Attributes:
        low, high: float64, the interval of values of every key; equal for 16-bit floats.
        mass: float64, number of weights, or summed importance, of every key.
        moment: float64, sum of the weights (times importance) of every key.
        size: number of weights.
    """

    def __init__(self, weight: Tensor, importance: Tensor | None = None) -> None:
        self.dtype, self.size = weight.dtype, weight.numel()
        self._importance = None if importance is None else importance.float().numpy()
        if weight.dtype == torch.float32:
            self._values, self._keys = weight.numpy(), np.empty(self.size, np.uint16)
            scan = native.scan if native.active() else scan_in_python
            found = scan(self._values, self._importance, MULTIPLES, self._keys)
            self._held, self.low, self.high, self.mass, self.moment = found
        else:
            self._keys = weight.view(torch.int16).numpy().view(np.uint16)
            count = native.count_keys if native.active() else count_keys
            mass = count(self._keys, self._importance)
            values, order = patterns(weight.dtype)
            some = mass[order] > 0 if importance is None else np.ones(KEYS, bool)
            self._held, self.low = order[some], values[some]
            self.high, self.mass = self.low, mass[self._held]
            self.moment = self.mass * self.low

    @property
    def exact(self) -> bool:
        """Whether a key is a value."""
        return self.dtype != torch.float32

    def select(self, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float32], Floats | None]:
        """Values, and importance if there is any, of all weights whose key is chosen (a mask)."""
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
        """Codes, and centroids that are the exact means of their members, rounded to their dtype.

        The codes are the exact nearest of the centroids from which the returned ones are then taken as means. Those
        differ by at most 1 % of the way to the next centroid (or three passes did not get them closer), in
        general by less than 0.01 %.

        Args:
            centroids: ``(k,)``, ascending, in the dtype of the weight; close to the final ones.

        Returns:
            Centroids ``(k,)`` and flat codes.
        """
        if native.active():
            tables, values = (self.low, self.high, self.mass, self.moment), None if self.exact else self._values
            given = (self._keys, values, self._importance, self._held, tables, centroids)
            return native.encode(*given, code_dtype(len(centroids)))
        return self.encode_in_python(centroids)

    def encode_in_python(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """The twin of the native ``encode``."""
        for _ in range(_PASSES):
            codes, means = self._code(centroids)
            before, centroids = centroids.double(), means.to(self.dtype)
            if bool(((means - before).abs()[1:] <= _SETTLED * before.diff()).all()):
                break
        return centroids, codes

    def _table(self, ordered: NDArray) -> NDArray:
        """A table of the keys that there are, as a table by key."""
        table = np.zeros(KEYS, ordered.dtype)
        table[self._held] = ordered
        return table

    def _unsure(self, limits: NDArray[np.float32]) -> tuple[Ints, Ints]:
        """First and one past the last key, by value, that holds values on both sides of each threshold."""
        fuzz = _FUZZ * (self.high - self.low)
        first = np.searchsorted(self.high + fuzz, limits, side="right")
        return first, np.searchsorted(self.low - fuzz, limits, side="right")

    def _code(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """One pass: the nearest codes, and the means of their members in float64."""
        k, limits, held = len(centroids), thresholds(centroids).numpy(), len(self._held)
        limits = np.maximum.accumulate(
            np.where(np.isinf(limits), np.float32(-np.inf), limits)
        )  # of equal ones the last
        first, stop = self._unsure(limits)
        code, most = (np.cumsum(np.bincount(at, minlength=held + 1))[:held] for at in (stop, first))
        dtype = {torch.uint8: np.uint8, torch.int16: np.int16, torch.int32: np.int32}[code_dtype(k)]
        mark = (k if k < 256 else int(np.bincount(code, self.mass, k).argmin())) if dtype is np.uint8 else -1
        sure = (code == most) & ((code != mark) | self.exact)
        table = self._table(np.where(sure, code, mark).astype(dtype))
        mass = np.bincount(code[sure], self.mass[sure], k).astype(np.float64)
        moment = np.bincount(code[sure], self.moment[sure], k).astype(np.float64)
        values = None if self.exact else self._values
        codes = _look_up(self._keys, values, self._importance, table, mark, limits, mass, moment)
        means = np.where(mass > 0, moment / np.where(mass > 0, mass, 1), centroids.double().numpy())
        return torch.from_numpy(codes), torch.from_numpy(means)


def scan_in_python(
    values: NDArray[np.float32], importance: NDArray[np.float32] | None, multiples: Floats, keys: NDArray[np.uint16]
) -> tuple[Ints, Floats, Floats, Floats, Floats]:
    """The twin of the native ``scan``."""
    centre, scale = centre_and_scale(values, multiples)
    top = _float_keys(values, centre, scale, keys)
    if RANGE[0] < top < RANGE[1]:
        low, high = intervals(float(centre), float(scale), top)
    else:
        keys.fill(KEYS // 2)
        low, high = one_interval(float(values.min()), float(values.max()))
    mass = count_keys(keys, importance)
    moment = _summed(keys, values, importance)
    held = np.flatnonzero(np.bincount(keys, minlength=KEYS))
    return held, low[held], high[held], mass[held], moment[held]


def _float_keys(values: NDArray[np.float32], centre: np.float32, scale: np.float32, keys: NDArray[np.uint16]) -> float:
    """Fill the keys of values; the largest distance from the centre."""
    shifted, size = np.empty((2, min(len(values), _MAP_CHUNK)), np.float32)
    top = 0.0
    with np.errstate(all="ignore"):
        for part in _chunks(len(values), _MAP_CHUNK):
            chunk = values[part]
            u, a = shifted[: len(chunk)], size[: len(chunk)]
            np.subtract(chunk, centre, out=u)
            np.abs(u, out=a)
            top = max(top, float(a.max()))
            a += scale
            u /= a
            u *= np.float32(STEPS)
            keys[part].view(np.int16)[...] = u
    keys ^= np.uint16(KEYS // 2)
    return top


def count_keys(keys: NDArray[np.uint16], importance: NDArray[np.float32] | None) -> Floats:
    """Mass of every key ``(65536,)``. The twin of the native one."""
    return _summed(keys, None, importance)


def _summed(
    keys: NDArray[np.uint16], values: NDArray[np.float32] | None, importance: NDArray[np.float32] | None
) -> Floats:
    """Sums of values, or of ones, times importance, of every key."""
    total = np.zeros(KEYS)
    for part in _chunks(len(keys), _COUNT_CHUNK):
        weights = None if importance is None else importance[part].astype(np.float64)
        each = weights if values is None else values[part] if weights is None else values[part] * weights
        total += np.bincount(keys[part], each, KEYS)
    return total


def _look_up(
    keys: NDArray[np.uint16],
    values: NDArray[np.float32] | None,
    importance: NDArray[np.float32] | None,
    table: NDArray,
    mark: int,
    limits: NDArray[np.float32],
    mass: Floats,
    moment: Floats,
) -> NDArray:
    """Codes by a table of the keys; of those that have the code ``mark`` there, where values are given, by the limits
    between centroids, and their masses and moments are added."""
    k = len(mass)
    codes = np.empty(len(keys), table.dtype)
    for part in _chunks(len(keys), _CODE_CHUNK):
        here = codes[part]
        table.take(keys[part], out=here, mode="wrap")
        at = np.flatnonzero(here == mark) if values is not None else ()
        if values is not None and len(at):
            chosen = values[part][at]
            weights = None if importance is None else importance[part][at].astype(np.float64)
            here[at] = nearest = np.searchsorted(limits, chosen)
            mass += np.bincount(nearest, weights, k)
            moment += np.bincount(nearest, chosen if weights is None else chosen * weights, k)
    return codes


def intervals(centre: float, scale: float, top: float) -> tuple[Floats, Floats]:
    """Lower and upper end of the values of every key, by ascending key; ``top`` is their largest distance."""
    key = np.arange(-KEYS // 2, KEYS // 2, dtype=np.float64)
    low, high = (key - (key <= 0)) / STEPS, (key + (key >= 0)) / STEPS
    for edge, first, last in ((low, -1.0, 1 - 2.0**-23), (high, -1 + 2.0**-23, 1.0)):
        np.clip(edge, first, last, out=edge)
        with np.errstate(divide="ignore"):
            edge *= scale / (1 - np.abs(edge))
        np.clip(edge, -top, top, out=edge)
        edge += centre
    return low, high


def one_interval(least: float, most: float) -> tuple[Floats, Floats]:
    """The same when all values have the key 0, because float32 cannot compute others."""
    low, high = np.full((2, KEYS), least)
    high[KEYS // 2 :] = low[KEYS // 2 + 1 :] = most
    return low, high


@functools.cache
def patterns(dtype: torch.dtype) -> tuple[Floats, Ints]:
    """The values of all bit patterns of a 16-bit float, ascending, and their patterns; not finite ones count as 0."""
    values = torch.arange(KEYS, dtype=torch.int32).to(torch.int16).view(dtype).double().nan_to_num_(0, 0, 0).numpy()
    order = np.argsort(values, kind="stable")
    return values[order], order


def _chunks(size: int, length: int) -> Iterator[slice]:
    return (slice(start, min(size, start + length)) for start in range(0, size, length))


def centre_and_scale(values: NDArray[np.float32], multiples: Floats = MULTIPLES) -> tuple[np.float32, np.float32]:
    """The centre s, the median of a sample, and the scale c with the least mean squared width of the intervals."""
    sample = values[:: max(1, len(values) // SAMPLE) | 1]
    centre = np.float32(np.median(sample))
    distance = np.abs(sample - np.float64(centre))
    if not distance.any():
        distance = np.abs(np.array([values.min(), values.max()]) - np.float64(centre))
    square = distance * distance
    powers = (distance, square, square * distance, square * square)
    first, second, third, fourth = (float(total_of(power)) / len(power) for power in powers)
    scales = max(first, 1e-30) * multiples
    width = scales**2 + 4 * scales * first + 6 * second + 4 * third / scales + fourth / scales**2
    return centre, np.float32(scales[width.argmin()])
