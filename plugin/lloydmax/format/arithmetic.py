"""Integers as an adaptive arithmetic code: no tables, since both sides learn the same from what was before.

An integer is a few decisions between 0 and 1: whether it is 0, its sign, how many bits its magnitude has, and these
from the highest on. Each decision has a node, and a node the probability of a 1, which every decision moves by the
inverse of their number (Krichevsky and Trofimov 1981). Mixed, the probability of small magnitudes is that of six nodes,
chosen by the magnitudes that the row and the column had and by the neighbours in the kernel, or in a matrix in row and
column, put together by a gated linear network (Mahoney 2005).
The probabilities drive a range coder (Martin 1979). All is exact in integers: one sequence has one stream.
``README.md`` has every number; the native core does the same, see ``native/arithmetic.c``.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from lloydmax import native

Integers = npt.NDArray[np.int32]

_LENGTHS, _MODELLED = 25, 8
_SIDE = _LENGTHS << _MODELLED
_SHORT, _NODES, _COLUMNS = 5, 64, 1 << 16
_COLUMN, _BOTH, _NEIGHBOURS, _SLOPE = 64, 128, 256, 256 + 25
_ALL_SETS, _NEAR = _SLOPE + 15 * 16, 6
_WEIGHTS = [18000, 12000, 12000, 12000, 12000, 12000]
_TOP, _SLOW, _FAST = 1791, 1023, 255
_LEAST, _GREATEST = 64, 65536 - 64
"""Probabilities of a decision, of 65536."""
_HALF = 1 << 31
"""A probability of one half, of 22 bits, above a count of 0, of 10."""
_MOST_WEIGHT = 1 << 20
_LOGISTIC = (60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11953, 17625, 24743, 32768)
"""From -7 to 0, in halves."""
MOST_VALUES = 1 << 13
"""Integers that a byte of a stream may hold: each takes a decision, and that at least 0.0014 bits."""
_RATES = [131072 // (2 * count + 3) for count in range(1024)]


def coder(
    mixed: bool, data: npt.NDArray[np.uint8] | None = None, room: int = 0
) -> native.ArithmeticCoder | PythonCoder:
    """An encoder, or a decoder of ``data``, see :class:`~lloydmax.native.ArithmeticCoder`."""
    return (native.ArithmeticCoder if native.active() else PythonCoder)(mixed, data, room)


def _squash(x: int) -> int:
    at = min(_TOP, abs(x))
    step, rest = divmod(_TOP + 1 - at, 128)
    low = _LOGISTIC[step]
    p = low + (((_LOGISTIC[min(14, step + 1)] - low) * rest) >> 7)
    return max(_LEAST, min(_GREATEST, p if x < 0 else 65536 - p))


@functools.cache
def _stretched() -> list[int]:
    """The reverse, for probabilities of 12 bits."""
    table = list[int]()
    for x in range(-_TOP, _TOP + 1):
        table += [x] * ((_squash(x) >> 4) + 1 - len(table))
    return table + [_TOP] * (4096 - len(table))


def _logarithm(mean: int) -> int:
    """Four times the binary logarithm, nearly."""
    length = (mean + 4).bit_length() - 1
    return min(63, (length - 2) * 4 + ((mean + 4) >> (length - 2) & 3))


def _learned(state: int, bit: int, limit: int) -> int:
    p, count = state >> 10, state & 1023
    rate = _RATES[count]
    p = p + (((0x3FFFFF - p) * rate) >> 16) if bit else p - ((p * rate) >> 16)
    return p << 10 | (count + (count < limit))


def _level(value: int, scaled: int, mean: int, shift: int, steps: int) -> int:
    """Which of ``2 * steps + 1`` levels a value has: 0, or how large it is beside a mean, on a logarithmic scale."""
    above = 1 + max(0, min(steps - 1, (_logarithm(scaled) - mean + _NEAR) >> shift))
    return steps + (-above if value < 0 else above if value else 0)


class PythonCoder:
    """The twin of :class:`~lloydmax.native.ArithmeticCoder`."""

    def __init__(self, mixed: bool, data: npt.NDArray[np.uint8] | None = None, room: int = 0) -> None:
        self._mixed, self._decodes, self._room = mixed, data is not None, room
        self._data = b"" if data is None else data.tobytes()
        self._low, self._range, self._place = 0, (1 << 40) - 1, 5
        self._code = int.from_bytes(self._data[:5].ljust(5, b"\0"), "big")
        self._out = bytearray()
        self._held, self._waiting = 0, 0
        self._tree = [_HALF] * (2 + 2 * _SIDE)
        self._sets = [_HALF] * (_ALL_SETS * _NODES if mixed else 0)
        self._weights = [_WEIGHTS for _ in range(_NODES)]
        self._mean, self._seen = 256, 0
        self._down, self._last = dict[int, int](), dict[int, int]()
        self._places: tuple[int, ...] = ()
        self.rows(0)

    def rows(self, columns: int, kernel: int = 1, line: int = 1) -> None:
        """See there, as for the others."""
        self._columns, self._column, self._row, self._along = columns, 0, 0, self._mean
        self._kernel, self._line, self._left, self._corner = kernel, line, 0, 0

    def encode(self, values: Integers) -> None:
        """Add integers of magnitudes below 2**25."""
        for value in values.reshape(-1).tolist():
            self._integer(value)

    def decode(self, count: int) -> Integers:
        """The next integers."""
        return np.fromiter((self._integer(0) for _ in range(count)), np.int32, count)

    def end(self) -> bytes | None:
        """The stream; ``None``: there was no room for it."""
        for bits in range(40, -1, -8):
            value = (self._low + (1 << bits) - 1) >> bits << bits
            if value < self._low + self._range:
                self._low = value
                break
        for _ in range(6):
            self._shift_low()
        whole = bytes(self._out[1:])
        stream = whole.rstrip(b"\0")
        return stream if len(whole) <= self._room + native.SPARE and len(stream) <= self._room else None

    def done(self) -> bool:
        """Whether the stream that was decoded ends here."""
        return self._place >= len(self._data)

    def _shift_low(self) -> None:
        if self._low < 0xFF << 32 or self._low >= 1 << 40:
            carry = self._low >> 40
            self._out.append((self._held + carry) & 0xFF)
            self._out += bytes([(0xFF + carry) & 0xFF]) * self._waiting
            self._held, self._waiting = self._low >> 32 & 0xFF, -1
        self._waiting += 1
        self._low = (self._low & 0xFFFFFFFF) << 8

    def _decide(self, bit: int, p: int) -> int:
        bound = (self._range >> 16) * p
        if self._decodes:
            bit = int(self._code < bound)
        if bit:
            self._range = bound
        else:
            self._range -= bound
            self._code -= bound if self._decodes else 0
            self._low += 0 if self._decodes else bound
        while self._range < 1 << 32:
            self._range <<= 8
            if self._decodes:
                self._code = self._code << 8 | (self._data[self._place] if self._place < len(self._data) else 0)
                self._place += 1
            else:
                self._shift_low()
        return bit

    def _node(self, bit: int, plain: int, known: int) -> int:
        state = self._tree[plain]
        if not self._mixed or known < 0:
            bit = self._decide(bit, max(_LEAST, min(_GREATEST, state >> 16)))
            self._tree[plain] = _learned(state, bit, _SLOW)
            return bit
        stretched, weights, sets = _stretched(), self._weights[known], self._sets
        places = [place + known for place in self._places]
        inputs = [stretched[state >> 20], *(stretched[sets[place] >> 20] for place in places)]
        total = sum(weight * value for weight, value in zip(weights, inputs, strict=True)) >> 16
        p = _squash(max(-_TOP, min(_TOP, total)))
        bit = self._decide(bit, p)
        error = (bit << 16) - p
        self._weights[known] = [
            max(-_MOST_WEIGHT, min(_MOST_WEIGHT, weight + ((value * error) >> 15)))
            for weight, value in zip(weights, inputs, strict=True)
        ]
        self._tree[plain] = _learned(state, bit, _SLOW)
        for place in places:
            sets[place] = _learned(sets[place], bit, _FAST)
        return bit

    def _integer(self, value: int) -> int:
        at = self._column & (_COLUMNS - 1)
        if self._mixed:
            if self._row == 0 and self._column < _COLUMNS:
                self._down[at], self._last[at] = self._mean, 0
            self._places = self._chosen(self._last[at], self._down[at])
        magnitude, found = abs(value), 0
        if self._node(int(magnitude != 0), 0, 0):
            side = self._node(int(value < 0), 1, 1)
            tree, known, length = 2 + side * _SIDE, 2 + side * 31, 0
            while length < _LENGTHS - 1 and self._node(
                int(magnitude >> (length + 1) != 0), tree + (length << _MODELLED), self._near(known + length, length)
            ):
                length += 1
            prefix = 1
            for bit in range(length - 1, -1, -1):
                given = magnitude >> bit & 1
                if length - 1 - bit < _MODELLED:
                    near = self._near(known + _SHORT + (1 << length) - 2 - length + prefix, length)
                    given = self._node(given, tree + (length << _MODELLED | prefix), near)
                else:
                    given = self._decide(given, 32768)
                prefix = prefix << 1 | given
            found, magnitude = -prefix if side else prefix, prefix
        else:
            magnitude = 0
        if self._mixed:
            self._learn_magnitude(at, min(magnitude, 255) << 8)
            self._go_on(at, max(-255, min(255, found)))
        return found

    def _chosen(self, above: int, down: int) -> tuple[int, ...]:
        """Where the sets begin for the next integer, by the means of its row and column and by its neighbours."""
        left, corner = self._left, self._corner
        row, column, mean = _logarithm(self._along), _logarithm(down), _logarithm(self._mean)
        if self._kernel > 1:
            up, tap = self._column - self._line, self._column % self._kernel
            inner, lower = tap % self._line > 0, tap >= self._line
            left = left if inner else 0
            above = self._last[up & (_COLUMNS - 1)] if lower else 0
            corner = self._last[(up - 1) & (_COLUMNS - 1)] if inner and lower else 0
        slope = 3 * left + 3 * above - 2 * corner
        neighbours = _level(left, abs(left) << 8, mean, 2, 2) * 5 + _level(above, abs(above) << 8, mean, 2, 2)
        sets = (
            row,
            _COLUMN + column,
            _BOTH + row + column,
            _NEIGHBOURS + neighbours,
            _SLOPE + _level(slope, abs(slope) << 6, mean, 1, 7) * 16 + (column >> 2),
        )
        return tuple(each * _NODES for each in sets)

    def _go_on(self, at: int, value: int) -> None:
        self._corner, self._left, self._last[at] = self._last[at], value, value
        self._column += 1
        if self._column == self._columns:
            self._column, self._row, self._along = 0, self._row + 1, self._mean
            self._left = self._corner = 0

    def _near(self, node: int, length: int) -> int:
        """A node that contexts know, or -1."""
        return node if length < _SHORT else -1

    def _learn_magnitude(self, at: int, magnitude: int) -> None:
        seen, column, row = self._seen, self._column, self._row
        shift = 1 if seen < 2 else 2 if seen < 6 else 4 if seen < 30 else 6 if seen < 254 else 8
        self._mean += (magnitude >> shift) - (self._mean >> shift)
        self._seen += seen < 254
        shift = 2 if column < 2 else 3 if column < 14 else 4
        self._along += (magnitude >> shift) - (self._along >> shift)
        shift = 1 if row < 2 else 2 if row < 6 else 3
        self._down[at] += (magnitude >> shift) - (self._down[at] >> shift)
