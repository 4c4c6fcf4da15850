"""Codes as bytes: packing.c and deflate.c. The twins are in ``format/packing.py``; all need the core."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from lloydmax.native.library import address, ready, size

Bytes = NDArray[np.uint8]
Codes = NDArray[np.integer]


def pack(codes: Codes, bits: int) -> Bytes:
    """The bits of flat codes, ``ceil(n * bits / 8)`` bytes; ``1 <= bits <= 24``."""
    stream = np.zeros((len(codes) * bits + 7) // 8, np.uint8)
    flat = np.ascontiguousarray(codes if codes.itemsize <= 4 else codes.astype(np.int32))
    ready().lm_pack(address(flat), flat.itemsize, size(len(flat)), bits, address(stream))
    return stream


def unpack(stream: Bytes, bits: int, count: int, dtype: type[np.integer]) -> Codes:
    """The reverse of :func:`pack`; the dtype holds codes of so many bits."""
    if len(stream) != (count * bits + 7) // 8 or not 1 <= bits <= 8 * np.dtype(dtype).itemsize:
        raise ValueError(f"{len(stream)} bytes are not {count} codes of {bits} bits")
    codes = np.empty(count, dtype)
    ready().lm_unpack(address(np.ascontiguousarray(stream)), bits, size(count), codes.itemsize, address(codes))
    return codes


def to_symbols(codes: Bytes, bits: int) -> Bytes:
    """Symbols of ``8 // bits`` codes each, the first one lowest; ``1 <= bits <= 8``."""
    flat = np.ascontiguousarray(codes)
    symbols = np.empty(-(-len(flat) // (8 // bits)), np.uint8)
    ready().lm_to_symbols(address(flat), size(len(flat)), bits, address(symbols))
    return symbols


def from_symbols(symbols: Bytes, bits: int, count: int) -> Bytes:
    """The reverse of :func:`to_symbols`.

    Raises:
        ValueError: a symbol holds more than its codes, or there are not as many as the codes need.
    """
    if len(symbols) != -(-count // (8 // bits)):
        raise ValueError(f"{len(symbols)} symbols are not {count} codes of {bits} bits")
    codes = np.empty(count, np.uint8)
    if not ready().lm_from_symbols(address(np.ascontiguousarray(symbols)), size(count), bits, address(codes)):
        raise ValueError(f"a code has more than {bits} bits")
    return codes


def huffman(symbols: Bytes) -> bytes:
    """The raw deflate stream of zlib's strategy ``Z_HUFFMAN_ONLY`` at memory level 9."""
    out = np.empty(len(symbols) + len(symbols) // 1024 + 5000, np.uint8)
    library = ready()
    library.lm_huffman.restype = ctypes.c_int64
    length = library.lm_huffman(address(symbols), size(len(symbols)), address(out), size(len(out)))
    assert length <= len(out), "no block but the last is longer than its symbols and five bytes"
    return out[:length].tobytes()


def repeats(symbols: Bytes) -> bool:
    """Whether six symbols may occur again within a window of deflate: where not, matches shorten nothing."""
    return bool(ready().lm_repeats(address(symbols), size(len(symbols))))
