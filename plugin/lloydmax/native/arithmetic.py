"""Integers as an adaptive arithmetic code: arithmetic.c. The twin is in ``format/arithmetic.py``."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from lloydmax.native.library import address, ready, size

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int32]
SPARE = 8
"""Bytes at the end of a stream that may turn out to be zeros, which are left out."""


class ArithmeticCoder:
    """An encoder that has ``room`` bytes, or a decoder of ``data``.

    Args:
        mixed: whether probabilities are mixed from those of several contexts.
        data: uint8; absent, an encoder.
        room: bytes that the stream may have.
    """

    def __init__(self, mixed: bool, data: Bytes | None = None, room: int = 0) -> None:
        library = ready()
        library.lm_arithmetic_size.restype = library.lm_arithmetic_end.restype = ctypes.c_int64
        self._coder = np.empty(library.lm_arithmetic_size() // 8 + 1, np.uint64)
        self._stream = np.zeros(room + SPARE, np.uint8) if data is None else np.ascontiguousarray(data)
        given, taken = (None, self._stream) if data is None else (self._stream, None)
        library.lm_arithmetic_begin(
            address(self._coder), data is not None, mixed, address(given), address(taken), size(len(self._stream))
        )

    def rows(self, columns: int, kernel: int = 1, line: int = 1) -> None:
        """What follows are rows of so many integers, made of kernels of so many, these of lines of so many; kernels of
        one are none, and the rows themselves the lines."""
        ready().lm_arithmetic_rows(address(self._coder), size(columns), size(kernel), size(line))

    def encode(self, values: Integers) -> None:
        """Add integers of magnitudes below 2**25."""
        flat = np.ascontiguousarray(values, np.int32)
        ready().lm_arithmetic_encode(address(self._coder), address(flat), size(flat.size))

    def decode(self, count: int) -> Integers:
        """The next integers; whatever the stream has, they are of magnitudes below 2**25."""
        values = np.empty(count, np.int32)
        ready().lm_arithmetic_decode(address(self._coder), address(values), size(count))
        return values

    def end(self) -> bytes | None:
        """The stream; ``None``: there was no room for it."""
        length = ready().lm_arithmetic_end(address(self._coder))
        return self._stream[:length].tobytes() if length <= len(self._stream) - SPARE else None

    def done(self) -> bool:
        """Whether the stream that was decoded ends here."""
        return bool(ready().lm_arithmetic_done(address(self._coder)))
