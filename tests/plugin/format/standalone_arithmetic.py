"""The arithmetic code, read with numpy alone: a part of the stand-alone reader."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np

HALF, LOGISTIC = 1 << 21, (60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11953, 17625, 24743, 32768)


class Arithmetic:
    """Integers of a stream."""

    def __init__(self, data: bytes, mixed: bool) -> None:
        self.data, self.mixed, self.place = data, mixed, 5
        self.range, self.code = (1 << 40) - 1, int.from_bytes(data[:5].ljust(5, b"\0"), "big")
        self.nodes: dict[Any, tuple[int, int]] = {}
        self.weights: dict[Any, list[int]] = {}
        self.mean, self.seen, self.sets = 256, 0, (0, 0, 0, 0, 0)
        self.down: dict[int, int] = {}

    def read(self, count: int, columns: int = 0, kernel: int = 1, line: int = 1) -> np.ndarray:
        """So many integers, in rows, kernels and lines."""
        found, row, column, along = [], 0, 0, 0
        kernel, line = (kernel, line) if kernel > 1 else (count, columns or count)
        for at in range(count):
            along = along if column else self.mean
            if row == 0 and column < 65536:
                self.down[column] = self.mean
            low = column % 65536
            of_row, of_column = _log(along), _log(self.down[low])
            inner, lower = at % line > 0, at % kernel >= line
            there = ((inner, 1), (lower, line), (inner and lower, line + 1))
            left, above, corner = (max(-255, min(255, found[at - back])) if one else 0 for one, back in there)
            slope = _level(3 * left + 3 * above - 2 * corner, 64, 1, 7, self.mean)
            beside = 5 * _level(left, 256, 2, 2, self.mean) + _level(above, 256, 2, 2, self.mean)
            self.sets = of_row, of_column, of_row + of_column, beside, 16 * slope + (of_column >> 2)
            found.append(self._integer())
            seen = 256 * min(255, abs(found[-1]))
            self.mean = _moved(self.mean, seen, _rate(self.seen, {2: 1, 6: 2, 30: 4, 254: 6}, 8))
            along = _moved(along, seen, _rate(column, {2: 2, 14: 3}, 4))
            self.down[low] = _moved(self.down[low], seen, _rate(row, {2: 1, 6: 2}, 3))
            self.seen, column = self.seen + 1, column + 1
            row, column = (row + 1, 0) if column == columns else (row, column)
        return np.array(found, int)

    def _integer(self) -> int:
        if not self._decision("zero", True):
            return 0
        negative, length, prefix = self._decision("sign", True), 0, 1
        while length < 24 and self._decision((negative, "length", length), length < 5):
            length += 1
        for bit in range(length):
            key = negative, length, prefix
            prefix = 2 * prefix + (self._decision(key, length < 5) if bit < 8 else self._bit(32768))
        return -prefix if negative else prefix

    def _decision(self, key: Any, known: bool) -> int:
        keys = [(key, 1023)]
        keys += [((key, at, chosen), 255) for at, chosen in enumerate(self.sets)] if self.mixed and known else []
        nodes = [self.nodes.get(one, (HALF, 0)) for one, _ in keys]
        if len(nodes) == 1:
            bit = self._bit(min(65472, max(64, nodes[0][0] >> 6)))
        else:
            inputs = [STRETCH[chance >> 10] for chance, _ in nodes]
            weights = self.weights.get(key, [18000] + 5 * [12000])
            p = _squash(min(1791, max(-1791, sum(map(int.__mul__, weights, inputs)) >> 16)))
            bit = self._bit(p)
            moved = (w + (s * (65536 * bit - p) >> 15) for w, s in zip(weights, inputs, strict=True))
            self.weights[key] = [min(1 << 20, max(-(1 << 20), weight)) for weight in moved]
        for (one, limit), (chance, count) in zip(keys, nodes, strict=True):
            rate = 131072 // (2 * count + 3)
            chance += ((4194303 - chance) * rate) >> 16 if bit else -((chance * rate) >> 16)
            self.nodes[one] = chance, min(limit, count + 1)
        return bit

    def _bit(self, p: int) -> int:
        bound = (self.range >> 16) * p
        bit = self.code < bound
        self.code, self.range = (self.code, bound) if bit else (self.code - bound, self.range - bound)
        while self.range < 1 << 32:
            self.code = self.code << 8 | (self.data[self.place] if self.place < len(self.data) else 0)
            self.range, self.place = self.range << 8, self.place + 1
        return int(bit)


def _rate(number: int, rates: dict[int, int], last: int) -> int:
    return next((rate for below, rate in rates.items() if number < below), last)


def _moved(mean: int, seen: int, rate: int) -> int:
    return mean + (seen >> rate) - (mean >> rate)


def _level(value: int, factor: int, shift: int, steps: int, mean: int) -> int:
    r = max(0, min(steps - 1, (_log(factor * abs(value)) - _log(mean) + 6) >> shift))
    return steps + (r + 1 if value > 0 else -r - 1 if value else 0)


def _log(mean: int) -> int:
    above = (mean + 4).bit_length() - 3
    return min(63, 4 * above + ((mean + 4) >> above & 3))


def _squash(x: int) -> int:
    step, rest = divmod(1792 - abs(x), 128)
    q = LOGISTIC[step] + (((LOGISTIC[min(14, step + 1)] - LOGISTIC[step]) * rest) >> 7)
    return min(65472, max(64, q if x < 0 else 65536 - q))


SCALE = range(-1791, 1792)
STRETCH = [min(1791, bisect_left(SCALE, y, key=lambda x: _squash(x) >> 4) - 1791) for y in range(4096)]
